"""Tests of teachers that fail during a run: nothing hangs, other shards are made, missing ones can be made later."""

import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from common.manifest import record_name, shard_name
from labeler.verify import verify_dataset
from tests.support.data.pictures import encoded
from tests.support.jobs import checksums, command, photographs, planned_shard, run
from tests.support.teachers import TEACHER_FAULT

pytestmark = pytest.mark.slow
TEACHER = "tests.support.teachers:faulty_teacher"
IMAGES, SHARDS = 20, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("set-aside")


@pytest.fixture(scope="module")
def images(folder: Path) -> Path:
    """Photographs, and a black image, on which the faulty teacher fails."""
    location = photographs(folder / "images", IMAGES - 1)
    (location / "black.jpg").write_bytes(encoded(Image.new("RGB", (80, 60)), "JPEG"))
    return location


@pytest.fixture(scope="module")
def clean(folder: Path, images: Path) -> Path:
    """The data set that the teacher makes without faults."""
    done = label(images, folder / "clean")
    assert done.returncode == 0, done.stderr
    return folder / "clean"


@pytest.fixture(scope="module")
def first_run(folder: Path, images: Path) -> subprocess.CompletedProcess[str]:
    """A run whose teacher raises an error for the black image."""
    return label(images, folder / "unfinished", "raise")


@pytest.fixture
def unfinished(first_run: subprocess.CompletedProcess[str], folder: Path, tmp_path: Path) -> Path:
    """A copy of the unfinished data set of that run."""
    return shutil.copytree(folder / "unfinished", tmp_path / "unfinished")


def label(
    images: Path, output: Path, fault: str = "", shards: int = SHARDS, **settings: object
) -> subprocess.CompletedProcess[str]:
    arguments = command(input=images, output=output, teacher=TEACHER, samples_per_shard=IMAGES // shards, **settings)
    return run(arguments, **{TEACHER_FAULT: fault})


def assert_set_aside(done: subprocess.CompletedProcess[str], output: Path, reason: str) -> None:
    """Check that the run names the one missing shard and why; that all others exist, and that there is no manifest."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    shard = next(n for n in range(SHARDS) if any("black" in image.ref.uri for image in planned_shard(output, n)))
    messages = [line for line in done.stdout.splitlines() if "set aside" in line]
    assert len(messages) == 1, done.stdout
    assert messages[0].startswith(f"{shard_name(shard)} was set aside: failed 3 times, the last time: ")
    assert reason in messages[0]
    assert "1 shard still missing" in done.stdout
    made = [n for n in range(SHARDS) if (output / shard_name(n)).exists() and (output / record_name(n)).exists()]
    assert made == [n for n in range(SHARDS) if n != shard]
    assert not (output / shard_name(shard)).exists()
    assert not (output / "manifest.json").exists()
    report = verify_dataset(str(output), workers=1)
    assert (report["ok"], report["complete"]) == (True, False)


@pytest.mark.promise
def test_shard_that_fails_repeatedly_is_set_aside(
    first_run: subprocess.CompletedProcess[str], unfinished: Path
) -> None:
    assert_set_aside(first_run, unfinished, "RuntimeError: this image is too dark")


def test_full_gpu_is_reported_with_advice(images: Path, tmp_path: Path) -> None:
    done = label(images, tmp_path / "out", "gpu")
    assert_set_aside(done, tmp_path / "out", "let fewer workers share a GPU: --gpus-per-worker 1")


@pytest.mark.promise
def test_same_command_completes_the_data_set(images: Path, unfinished: Path, clean: Path) -> None:
    done = label(images, unfinished)
    assert done.returncode == 0, done.stderr
    assert checksums(unfinished) == checksums(clean)


def test_retry_completes_the_data_set(unfinished: Path, clean: Path) -> None:
    done = run(command(unfinished, module="labeler.retry"))
    assert done.returncode == 0, done.stderr
    assert checksums(unfinished) == checksums(clean)


def test_shard_that_kills_its_workers_is_set_aside(images: Path, clean: Path, tmp_path: Path) -> None:
    done = label(images, tmp_path / "out", "die")
    assert_set_aside(done, tmp_path / "out", "its worker died")
    done = label(images, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert checksums(tmp_path / "out") == checksums(clean)


@pytest.mark.slow
def test_shard_whose_batch_takes_too_long_is_set_aside(images: Path, tmp_path: Path) -> None:
    done = label(images, tmp_path / "out", "hang", batch_timeout=5)
    assert_set_aside(done, tmp_path / "out", "the teacher took longer than 5 s for a batch (--batch-timeout)")


def test_teacher_that_workers_cannot_create_stops_the_run(images: Path, tmp_path: Path) -> None:
    """The run stops long before all of its shards are set aside."""
    done = label(images, tmp_path / "out", "absent", shards=IMAGES)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, done.stderr
    assert messages[0].endswith(
        f"--teacher {TEACHER}: cannot be created: FileNotFoundError: /home/me/weights.pt is not here"
    )
    assert not list((tmp_path / "out").glob("*.tar"))


def test_teacher_that_kills_every_worker_stops_the_run(images: Path, tmp_path: Path) -> None:
    done = label(images, tmp_path / "out", "fatal")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, done.stderr
    assert "every worker died with its first shard" in messages[0]
    assert not list((tmp_path / "out").glob("*.tar"))
