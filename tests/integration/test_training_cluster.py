"""Tests of `python -m trainer.run` on a Ray cluster that loses a node: it is replaced, or fewer workers continue."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clusters import Cluster, Submission
from tests.support.data.datasets import make_dataset
from tests.support.jobs import command, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the nodes' processes in /proc"),
]
STEPS = 18  # in two epochs
TIMEOUT = 240  # seconds for a job to do what a test waits for


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """A head and two nodes with a CPU each, restored after earlier tests."""
    shared_cluster.fill()
    return shared_cluster


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), [40, 33, 35])


def train_command(data: Path, output: Path, workers: int) -> list[str]:
    """Return the command line of a small run with learning rates so low that differences in rounding do not grow."""
    settings = {"backbone": "resnet18", "norm": "group", "image_size": 32, "batch_size": 12, "epochs": 2}
    settings |= {"warmup_epochs": 1, "learning_rate": 0.05, "readout_rate": "backbone", "checkpoint_every": 2}
    settings["threads"] = 1
    return command(module="trainer.run", data=data, output=output, workers=workers, **settings)


@pytest.fixture(scope="module")
def expected_losses(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of an uninterrupted run in one process."""
    output = tmp_path_factory.mktemp("single") / "run"
    done = run(train_command(discs, output, workers=1))
    assert done.returncode == 0, done.stderr
    return read_losses(output)


def read_losses(output: Path) -> list[float]:
    """Return the loss of each step that has been logged so far."""
    path = output / "metrics.jsonl"
    complete_lines = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
    return [line["loss"] for line in map(json.loads, complete_lines) if "loss" in line]


def wait_until(condition: Callable[[], bool], job: Submission) -> None:
    """Wait for a condition; fail if the job ends before, or after the timeout."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert job.poll() is None, job.log
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s in vain; the job's log:\n{job.log}"
        time.sleep(0.05)


def test_run_continues_on_the_node_that_replaces_a_lost_one(
    cluster: Cluster, discs: Path, expected_losses: list[float], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    job = cluster.submit(*train_command(discs, output, workers=2))
    wait_until(lambda: len(read_losses(output)) >= 4, job)
    cluster.kill_node("RayTrainWorker")
    assert len(read_losses(output)) < STEPS
    cluster.fill()
    assert job.wait(TIMEOUT) == 0, job.log
    assert read_losses(output) == pytest.approx(expected_losses, rel=1e-4)
    assert json.loads((output / "result.json").read_text())["workers"] == 2


def test_fewer_workers_resume_a_run_whose_node_has_left(
    cluster: Cluster, discs: Path, expected_losses: list[float], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    first = cluster.submit(*train_command(discs, output, workers=2))
    wait_until(lambda: len(read_losses(output)) >= 4, first)
    cluster.kill_node("RayTrainWorker")
    cluster.stop(first)
    first.wait(TIMEOUT)
    assert len(read_losses(output)) < STEPS
    second = cluster.submit(*train_command(discs, output, workers=1))
    assert second.wait(TIMEOUT) == 0, second.log
    assert read_losses(output) == pytest.approx(expected_losses, rel=1e-4)
    assert json.loads((output / "result.json").read_text())["workers"] == 1
