"""Programs that are stopped by SIGTERM, which clusters and service managers send, or by Ctrl-C."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labeler.verify import verify_dataset
from tests.support.clusters import Cluster
from tests.support.data.datasets import make_dataset
from tests.support.jobs import checksums, command, label_command, run, start

SENTENCE = "stopped; run the same command again to resume"
TIMEOUT = 200  # seconds

pytestmark = pytest.mark.slow


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s in vain"
        time.sleep(0.02)


def count_records(output: Path) -> int:
    return len(list(output.glob("records/*.json")))


def count_steps(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_text().count("learning_rate") if path.exists() else 0


def stop(line: list[str], signal_number: int, condition: Callable[[int], bool], **variables: str) -> tuple[int, str]:
    """Start a program and send it a signal when the condition on its process id holds.

    Returns its exit code and what it has written to standard error.
    """
    process = start(line, **variables)
    try:
        wait_until(lambda: condition(process.pid) or process.poll() is not None)
        process.send_signal(signal_number)
        _, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, errors
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def assert_only_sentence(errors: str) -> None:
    """Assert that the sentence is the last line of a program that got a signal, and that there is no traceback."""
    assert errors.count(SENTENCE) == 1, errors
    assert errors.rstrip().endswith(SENTENCE), errors
    assert "Traceback" not in errors
    assert "SIGTERM" not in errors  # from Ray's own handler: "*** SIGTERM received"


@pytest.mark.parametrize(
    ("signal_number", "code", "workers"),
    [(signal.SIGTERM, 143, 1), (signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 2)],
    ids=["SIGTERM, 1 worker", "SIGTERM, 2 workers", "Ctrl-C, 2 workers"],
)
def test_stopped_labeling_leaves_no_unfinished_files_and_resumes_to_the_same_bytes(
    signal_number: int, code: int, workers: int, images: Path, clean: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    line = label_command(images, output, workers=workers)
    found, errors = stop(line, signal_number, lambda pid: count_records(output) >= 2, TEACHER_SECONDS="0.1")
    assert found == code, errors
    assert_only_sentence(errors)
    assert not (output / ".partial").exists()
    assert not (output / "manifest.json").exists()
    assert verify_dataset(str(output), workers=1)["problems"] == []
    done = run(line)
    assert done.returncode == 0, done.stderr
    assert "resuming: " in done.stdout
    assert checksums(output) == checksums(clean)


def test_labeling_that_is_stopped_while_ray_starts_ends_with_one_sentence(images: Path, tmp_path: Path) -> None:
    """Ray installs a handler of its own at that time."""
    line = label_command(images, tmp_path / "out")
    code, errors = stop(line, signal.SIGTERM, lambda pid: "gcs_server" in command_lines(pid))
    assert code == 143, errors
    assert_only_sentence(errors)
    assert not (tmp_path / "out/.partial").exists()


def command_lines(parent: int) -> str:
    """Return the command lines of the children of a process."""
    line = ["ps", "--ppid", str(parent), "-o", "args="]
    return subprocess.run(line, capture_output=True, text=True).stdout


def test_labeling_that_is_stopped_on_a_cluster_leaves_no_unfinished_files(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Cluster(nodes=2, TEACHER_SECONDS="0.1") as cluster:
        submission = cluster.submit(*label_command(images, output))
        wait_until(lambda: count_records(output) >= 2 or submission.poll() is not None)
        cluster.stop(submission)
        submission.wait(TIMEOUT)
        assert submission.log.count(SENTENCE) == 1, submission.log
        assert "SIGTERM received" not in submission.log
        assert not (output / ".partial").exists()
    assert verify_dataset(str(output), workers=1)["problems"] == []
    assert not (output / "manifest.json").exists()


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), [20, 13])


def train_command(data: Path, output: Path, **settings: object) -> list[str]:
    defaults = {"data": data, "output": output, "backbone": "resnet18", "norm": "group", "image_size": 32, "threads": 1}
    return command(module="trainer.run", **defaults | {"batch_size": 8, "epochs": 60, "warmup_epochs": 1} | settings)


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_training_ends_with_one_sentence_and_can_be_resumed(
    signal_number: int, code: int, discs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    line = train_command(discs, output, checkpoint_every=1)
    found, errors = stop(line, signal_number, lambda pid: count_steps(output) >= 2)
    assert found == code, errors
    assert_only_sentence(errors)
    assert not list(output.glob(".partial/*"))
    assert (output / "checkpoints/last").exists()


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_training_with_ray_workers_ends_with_one_sentence(
    signal_number: int, code: int, discs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    line = train_command(discs, output, checkpoint_every=1, workers=2)
    found, errors = stop(line, signal_number, lambda pid: count_steps(output) >= 2)
    assert found == code, errors
    driver = [line for line in errors.splitlines() if not re.match(r"\x1b\[\d+m\(", line)]  # not of a worker
    assert driver.count(SENTENCE) == 1, errors
    assert not [line for line in driver if "Traceback" in line or "SIGTERM" in line]
    assert not (output / ".partial").exists()
    assert (output / "checkpoints/last").exists()
