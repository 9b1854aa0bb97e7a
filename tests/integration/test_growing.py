"""Tests of `python -m labeler.retry` and `python -m labeler.run --append` as users start them."""

import json
from pathlib import Path

import pytest

from labeler.verify import verify_dataset
from tests.support.data.pictures import jpeg
from tests.support.jobs import checksums, command, failures, label_command, photographs, run


def shard_checksums(output: Path) -> dict[str, str]:
    return {name: checksum for name, checksum in checksums(output).items() if name.endswith(".tar")}


@pytest.mark.slow
def test_failed_images_are_retried_and_new_images_are_appended(tmp_path: Path) -> None:
    images, output = photographs(tmp_path / "images", 8, classes=2), tmp_path / "out"
    truncated = images / "class0/photo002.jpg"
    content = truncated.read_bytes()
    truncated.write_bytes(content[:200])
    (images / "class1/photo005.jpg").write_bytes(b"no image")
    assert run(label_command(images, output)).returncode == 1, "two of eight exceed --max-bad-fraction 0.1"
    assert failures(output) == {"class0/photo002.jpg": "truncated", "class1/photo005.jpg": "not_an_image"}
    first = shard_checksums(output)

    truncated.write_bytes(content)
    done = run(command(output, module="labeler.retry", max_bad_fraction=0.2))
    assert done.returncode == 0, done.stderr
    assert "2 failed images: retrying 2, 0 no longer in the input" in done.stdout
    assert failures(output) == {"class1/photo005.jpg": "not_an_image"}
    assert first.items() < shard_checksums(output).items()
    assert verify_dataset(str(output), workers=1)["problems"] == []

    (images / "class2").mkdir()
    (images / "class2/new.jpg").write_bytes(jpeg(70, 60))
    refused = run(label_command(images, output))
    assert refused.returncode == 2
    assert "class2" in refused.stderr
    assert "--append" in refused.stderr
    second = shard_checksums(output)
    done = run(label_command(images, output, append=True))
    assert done.returncode == 0, done.stderr
    assert second.items() < shard_checksums(output).items()
    assert json.loads((output / "classes.json").read_bytes()) == {"0": "class0", "1": "class1", "2": "class2"}
    report = verify_dataset(str(output), workers=1)
    assert (report["problems"], report["complete"], report["samples"]) == ([], True, 8)

    before = checksums(output, records=True)
    done = run(
        label_command(images, output, append=True), RAY_ADDRESS="127.0.0.1:1"
    )  # nothing is labeled, so Ray is not started
    assert done.returncode == 0, done.stderr
    assert "nothing to append" in done.stdout
    assert checksums(output, records=True) == before
    progress = json.loads((output / "progress.json").read_bytes())
    assert (progress["state"], progress["images"], progress["report"]["images"]) == ("complete", 11, 1)


def test_retry_refuses_a_folder_without_a_data_set(tmp_path: Path) -> None:
    done = run(command(tmp_path, module="labeler.retry"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "found no plan.json" in done.stderr
    done = run(command(module="labeler.retry"))
    assert done.returncode == 2
    assert "DATASET" in done.stderr
