"""`python -m labeler.retry` and `python -m labeler.run --append` as users start them."""

import json
from pathlib import Path

import pytest

from labeler.verify import verify_dataset
from tests.support.jobs import checksums, command, failures, label, photographs, run
from tests.support.pictures import jpeg


def shards(output: Path) -> dict[str, str]:
    return {name: checksum for name, checksum in checksums(output).items() if name.endswith(".tar")}


@pytest.mark.slow
def test_what_failed_is_tried_again_and_what_is_new_is_added(tmp_path: Path) -> None:
    images, output = photographs(tmp_path / "images", 8, classes=2), tmp_path / "out"
    mended = images / "class0/photo002.jpg"
    whole = mended.read_bytes()
    mended.write_bytes(whole[:200])
    (images / "class1/photo005.jpg").write_bytes(b"no image")
    assert run(label(images, output)).returncode == 1, "two of eight are more than a tenth"
    assert failures(output) == {"class0/photo002.jpg": "truncated", "class1/photo005.jpg": "not_an_image"}
    first = shards(output)

    mended.write_bytes(whole)
    done = run(command(output, module="labeler.retry", max_bad_fraction=0.2))
    assert done.returncode == 0, done.stderr
    assert "2 images failed: 2 are tried again" in done.stdout
    assert failures(output) == {"class1/photo005.jpg": "not_an_image"}
    assert first.items() < shards(output).items()
    assert verify_dataset(str(output), workers=1)["problems"] == []

    (images / "class2").mkdir()
    (images / "class2/new.jpg").write_bytes(jpeg(70, 60))
    refused = run(label(images, output))
    assert refused.returncode == 2
    assert "class2" in refused.stderr
    assert "--append" in refused.stderr
    second = shards(output)
    done = run(label(images, output, append=True))
    assert done.returncode == 0, done.stderr
    assert second.items() < shards(output).items()
    assert json.loads((output / "classes.json").read_bytes()) == {"0": "class0", "1": "class1", "2": "class2"}
    report = verify_dataset(str(output), workers=1)
    assert (report["problems"], report["complete"], report["samples"]) == ([], True, 8)

    before = checksums(output, records=True)
    done = run(label(images, output, append=True), RAY_ADDRESS="127.0.0.1:1")  # there is nothing to start Ray for
    assert done.returncode == 0, done.stderr
    assert "nothing to append" in done.stdout
    assert checksums(output, records=True) == before
    progress = json.loads((output / "progress.json").read_bytes())
    assert (progress["state"], progress["images"], progress["report"]["images"]) == ("complete", 11, 1)


def test_a_retry_of_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    done = run(command(tmp_path, module="labeler.retry"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "found no plan.json" in done.stderr
    done = run(command(module="labeler.retry"))
    assert done.returncode == 2
    assert "DATASET" in done.stderr
