"""Training runs started as users start them: alone, with torchrun or on Ray workers, local and in S3, with kills."""

import json
import os
import re
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clusters import find_processes, kill_all
from tests.support.data.datasets import make_dataset
from tests.support.jobs import ROOT, command, kill_when, run, start, wait_while_running
from tests.support.s3_server import S3Server

SHARD_SIZES = [40, 33, 35]
STEPS, EPOCHS = 18, 2
EARLY_STEPS = 5  # in which differences in rounding are still small
MARK = "TESTS_TRAINING"  # environment variable of a run and all its processes, to find them
TIMEOUT = 180  # seconds
KEYS_THAT_VARY = ("images_per_second", "waited", "memory_gb", "seconds", "workers")

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their /proc/PID/environ")


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), SHARD_SIZES)


def train_command(data: object, output: object, **settings: object) -> list[str]:
    """Return the command line of a small run with group norm, which trains equally with one and with two workers."""
    defaults = {"data": data, "output": output, "backbone": "resnet18", "norm": "group", "image_size": 32}
    defaults |= {"batch_size": 12, "epochs": EPOCHS, "warmup_epochs": 1, "checkpoint_every": 4, "threads": 1}
    return command(module="trainer.run", **defaults | settings)


@pytest.fixture(scope="module")
def single_process_run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run in one process."""
    output = tmp_path_factory.mktemp("single") / "run"
    done = run(train_command(discs, output))
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def two_worker_run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run of two Ray workers; the command has relative paths, as users often give them."""
    output = tmp_path_factory.mktemp("two") / "run"
    done = run(train_command(os.path.relpath(discs, ROOT), os.path.relpath(output, ROOT), workers=2))
    assert done.returncode == 0, done.stderr
    return output


def parse_metrics(text: str) -> list[dict[str, object]]:
    """Return the lines of a metric log without those entries that depend on the clock or the number of workers."""
    return [
        {key: value for key, value in json.loads(line).items() if key not in KEYS_THAT_VARY}
        for line in text.splitlines()
    ]


def read_metrics(output: Path) -> list[dict[str, object]]:
    return parse_metrics((output / "metrics.jsonl").read_text())


def assert_same_metrics(actual: list[dict[str, object]], expected: list[dict[str, object]]) -> None:
    """Compare two logs up to rounding: ranks add in another order, and the difference grows from step to step."""
    assert [line["step"] for line in actual] == [line["step"] for line in expected]
    assert len(actual) == STEPS + EPOCHS
    for actual_line, expected_line in zip(actual[:EARLY_STEPS], expected[:EARLY_STEPS], strict=True):
        assert actual_line == pytest.approx(expected_line, rel=1e-3, abs=1e-4)
    actual_losses, expected_losses = ([line["loss"] for line in log if "loss" in line] for log in (actual, expected))
    assert actual_losses == pytest.approx(expected_losses, rel=2e-2)


def count_logged_steps(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_text().count("learning_rate") if path.exists() else 0


def read_photographs(output: Path) -> list[str]:
    """Return the photographs on the page of a run."""
    return re.findall('data:image/jpeg;base64,[^"]+', (output / "index.html").read_text())


def test_finished_run_prints_its_result_again(single_process_run: Path, discs: Path) -> None:
    done = run(train_command(discs, single_process_run))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^probe accuracy +[\d.]+  chance is 0\.25$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^attention +-?[\d.e-]+  correlation", done.stdout, re.MULTILINE), done.stdout
    assert json.loads((single_process_run / "result.json").read_text())["steps"] == STEPS


def torchrun_command(data: Path, output: Path, processes: int) -> list[str]:
    """Return the command line of the same run under torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*torchrun, *train_command(data, output)[1:]]


def test_torchrun_trains_like_a_single_process(single_process_run: Path, discs: Path, tmp_path: Path) -> None:
    done = run(torchrun_command(discs, tmp_path / "run", 2))
    assert done.returncode == 0, done.stderr
    assert_same_metrics(read_metrics(tmp_path / "run"), read_metrics(single_process_run))
    assert done.stdout.count("checkpoints and metrics are in") == 1
    assert done.stdout.count("index.html in a browser") == 1
    photographs = read_photographs(tmp_path / "run")
    assert photographs == read_photographs(single_process_run)
    assert len(photographs) == 8
    assert json.loads((tmp_path / "run/result.json").read_text())["workers"] == 2


@pytest.mark.slow
@linux
@pytest.mark.parametrize("processes", [2, 1])
def test_run_of_torchrun_ends_with_a_killed_process_and_is_resumed_by_as_many_or_fewer(
    processes: int, single_process_run: Path, discs: Path, tmp_path: Path
) -> None:
    mark, output = uuid.uuid4().hex, tmp_path / "run"
    process = start(torchrun_command(discs, output, 2), **{MARK: mark})
    try:
        wait_while_running(process, lambda: count_logged_steps(output) >= 5)
        launchers = find_processes(f"{MARK}={mark}\0", "torch.distributed.run")
        workers = set(find_processes(f"{MARK}={mark}\0", "trainer.run")) - set(launchers)
        assert len(workers) == 2
        os.kill(min(workers), signal.SIGKILL)
        process.communicate(timeout=TIMEOUT)
    finally:
        kill_all(f"{MARK}={mark}\0")
    assert process.returncode != 0
    assert 5 <= count_logged_steps(output) < STEPS
    done = run(torchrun_command(discs, output, processes))
    assert done.returncode == 0, done.stderr
    assert_same_metrics(read_metrics(output), read_metrics(single_process_run))
    assert json.loads((output / "result.json").read_text())["workers"] == processes


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["contrastive-attn-block", "contrastive-self-mask", "contrastive-contracam"])
def test_recipe_that_is_killed_twice_ends_like_one_that_is_not(recipe: str, discs: Path, tmp_path: Path) -> None:
    """At 64 px the last stage has 2 x 2 positions, the fewest from which these recipes make attention maps."""
    settings = {"recipe": recipe, "norm": "batch", "image_size": 64}
    done = run(train_command(discs, tmp_path / "whole", **settings))
    assert done.returncode == 0, done.stderr

    line = train_command(discs, tmp_path / "run", **settings)
    for steps in (3, 11):  # within the first checkpoint's steps, and within the second epoch
        kill_when(lambda steps=steps: count_logged_steps(tmp_path / "run") >= steps, line)
    done = run(line)
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole")
    assert read_photographs(tmp_path / "run") == read_photographs(tmp_path / "whole")


@pytest.mark.slow
def test_ray_workers_train_like_a_single_process(single_process_run: Path, two_worker_run: Path) -> None:
    assert_same_metrics(read_metrics(two_worker_run), read_metrics(single_process_run))
    result = json.loads((two_worker_run / "result.json").read_text())
    assert (result["workers"], result["steps"]) == (2, STEPS)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.promise)])
def test_run_recovers_from_a_worker_killed_within_an_epoch(
    victim: int, discs: Path, two_worker_run: Path, tmp_path: Path
) -> None:
    mark, output = uuid.uuid4().hex, tmp_path / "run"
    process = start(train_command(discs, output, workers=2), **{MARK: mark})
    try:
        wait_while_running(process, lambda: count_logged_steps(output) >= 6)
        workers = find_processes(f"{MARK}={mark}\0", "RayTrainWorker")
        assert len(workers) == 2
        os.kill(workers[victim], signal.SIGKILL)
        _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        kill_all(f"{MARK}={mark}\0")
    assert process.returncode == 0, errors
    assert_same_metrics(read_metrics(output), read_metrics(two_worker_run))
    result, expected = (json.loads((folder / "result.json").read_text()) for folder in (output, two_worker_run))
    assert result["steps"] == expected["steps"] == STEPS
    assert result["loss"] == pytest.approx(expected["loss"], rel=2e-2)


class Bucket:
    """A bucket that contains the disc data set, and to which a run writes."""

    def __init__(self, server: S3Server, discs: Path) -> None:
        self._name, self._client = server.new_bucket(), server.client()
        self.data, self.output = f"s3://{self._name}/discs", f"s3://{self._name}/run"
        self.environment = server.environment()
        for path in discs.iterdir():
            self._client.put_object(Bucket=self._name, Key=f"discs/{path.name}", Body=path.read_bytes())

    def names(self) -> set[str]:
        """Return the names of the run's files."""
        answer = self._client.list_objects_v2(Bucket=self._name, Prefix="run/")
        return {item["Key"].removeprefix("run/") for item in answer.get("Contents", [])}

    def read(self, name: str) -> bytes:
        """Return the content of one of the run's files."""
        content: bytes = self._client.get_object(Bucket=self._name, Key=f"run/{name}")["Body"].read()
        return content


@pytest.fixture
def bucket(guarded_s3: S3Server, discs: Path) -> Bucket:
    return Bucket(guarded_s3, discs)


@pytest.fixture
def new_machine() -> Iterator[Callable[[], dict[str, str]]]:
    """Function that returns the environment of another machine: a temporary folder shared with no other."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path: Ray creates sockets in it
        yield lambda: {"TMPDIR": tempfile.mkdtemp(dir=folder)}


@pytest.mark.slow
def test_run_in_s3_resumes_on_another_machine(
    bucket: Bucket, new_machine: Callable[[], dict[str, str]], single_process_run: Path
) -> None:
    """The first machine has two Ray workers and loses its power; the second has one process."""
    line = train_command(bucket.data, bucket.output, workers=2)
    kill_when(lambda: "checkpoints/last" in bucket.names(), line, **new_machine(), **bucket.environment)
    assert "result.json" not in bucket.names()

    done = run(train_command(bucket.data, bucket.output), **new_machine(), **bucket.environment)
    assert done.returncode == 0, done.stderr
    expected = {"config.json", "metrics.jsonl", "checkpoints/last", "checkpoints/best", "result.json", "index.html"}
    assert expected <= bucket.names()
    assert any(name.startswith("tensorboard/") for name in bucket.names())
    assert_same_metrics(parse_metrics(bucket.read("metrics.jsonl").decode()), read_metrics(single_process_run))
    assert json.loads(bucket.read("result.json"))["steps"] == STEPS
    assert f"checkpoints and metrics are in {bucket.output}" in done.stdout


def assert_fails(line: list[str], *words: str) -> str:
    """Check that a command ends with code 2 and one error line that contains the words; return all its output."""
    done = run(line)
    assert done.returncode == 2, (done.stdout, done.stderr)
    (message,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert all(word in message for word in words), message
    return done.stdout + done.stderr


def test_more_workers_than_the_cluster_can_run_raise_an_error(discs: Path, tmp_path: Path) -> None:
    line = train_command(discs, tmp_path / "run", workers=100, batch_size=100)
    assert_fails(line, "--workers 100: expected a", "for each, this cluster has")


def test_batch_that_workers_cannot_share_raises_an_error_before_they_start(discs: Path, tmp_path: Path) -> None:
    start_time = time.monotonic()
    line = train_command(discs, tmp_path / "run", workers=5)
    assert_fails(line, "--batch-size 12: expected a multiple of the number of workers")
    assert time.monotonic() - start_time < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_shard_that_a_worker_cannot_read_is_reported_in_one_line(discs: Path, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "damaged", SHARD_SIZES)
    path = data / "train-000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    line = train_command(data, tmp_path / "run", workers=2)
    output = assert_fails(line, "train-000001.tar: damaged after sample 0000000", "--skip-damaged")
    assert output.count("Setting up process group") <= 1, output
