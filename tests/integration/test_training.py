"""`python -m trainer.run` as users start it: alone, under torchrun, on Ray's workers; from S3 and to S3; and kills."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clusters import find_processes, kill_all
from tests.support.datasets import make_dataset
from tests.support.jobs import ROOT, command, run, start
from tests.support.s3_server import S3Server

SIZES = [40, 33, 35]
STEPS, EPOCHS = 18, 2
EARLY = 5  # steps in which rounding is still small
MARK = "TESTS_TRAINING"  # environment variable that a run and all its processes have
PATIENCE = 180  # seconds
TIMES = ("images_per_second", "waited", "memory_gb", "seconds", "workers")

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="tells processes by /proc")


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), SIZES)


def train(data: object, output: object, **settings: object) -> list[str]:
    """The command line of a small run with group norm, of which two workers see the same batches as one."""
    defaults = {"data": data, "output": output, "backbone": "resnet18", "norm": "group", "image_size": 32}
    defaults |= {"batch_size": 12, "epochs": EPOCHS, "warmup_epochs": 1, "checkpoint_every": 4, "threads": 1}
    return command(module="trainer.run", **defaults | settings)


@pytest.fixture(scope="module")
def alone(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process learns, undisturbed."""
    output = tmp_path_factory.mktemp("alone") / "run"
    done = run(train(discs, output))
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def together(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two of Ray's workers learn, undisturbed; places are relative, as people write them."""
    output = tmp_path_factory.mktemp("together") / "run"
    done = run(train(os.path.relpath(discs, ROOT), os.path.relpath(output, ROOT), workers=2))
    assert done.returncode == 0, done.stderr
    return output


def lines(text: str) -> list[dict[str, object]]:
    """Of a log of figures, without what depends on the clock."""
    return [{key: v for key, v in json.loads(line).items() if key not in TIMES} for line in text.splitlines()]


def curve(output: Path) -> list[dict[str, object]]:
    return lines((output / "metrics.jsonl").read_text())


def assert_same_curve(found: list[dict[str, object]], expected: list[dict[str, object]]) -> None:
    """The same, but for rounding, which grows from step to step: sums over ranks are in another order."""
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    assert len(found) == STEPS + EPOCHS
    for ours, theirs in zip(found[:EARLY], expected[:EARLY], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    losses = ([line["loss"] for line in lines if "loss" in line] for lines in (found, expected))
    assert next(losses) == pytest.approx(next(losses), rel=2e-2)


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def logged_steps(output: Path) -> int:
    path = output / "metrics.jsonl"
    return path.read_text().count("learning_rate") if path.exists() else 0


def test_one_process_tells_what_it_has_learnt(alone: Path, discs: Path) -> None:
    done = run(train(discs, alone))  # it has ended: nothing is learnt again
    assert done.returncode == 0, done.stderr
    assert re.search(r"^probe accuracy +[\d.]+  chance is 0\.25$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^attention +-?[\d.e-]+  correlation", done.stdout, re.MULTILINE), done.stdout
    assert json.loads((alone / "result.json").read_text())["steps"] == STEPS


def test_torchruns_processes_give_the_curve_of_one(alone: Path, discs: Path, tmp_path: Path) -> None:
    line = train(discs, tmp_path / "run")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *line[1:]]
    done = run(torchrun)
    assert done.returncode == 0, done.stderr
    assert_same_curve(curve(tmp_path / "run"), curve(alone))
    assert done.stdout.count("the run lies in") == 1
    assert json.loads((tmp_path / "run/result.json").read_text())["workers"] == 2


@pytest.mark.slow
def test_rays_workers_give_the_curve_of_one(alone: Path, together: Path) -> None:
    assert_same_curve(curve(together), curve(alone))
    result = json.loads((together / "result.json").read_text())
    assert (result["workers"], result["steps"]) == (2, STEPS)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_killed_in_mid_epoch_changes_nothing(victim: int, discs: Path, together: Path, tmp_path: Path) -> None:
    mark, output = uuid.uuid4().hex, tmp_path / "run"
    process = start(train(discs, output, workers=2), **{MARK: mark})
    try:
        wait_until(lambda: logged_steps(output) >= 6, process)
        found = find_processes(f"{MARK}={mark}\0", "RayTrainWorker")
        assert len(found) == 2
        os.kill(found[victim], signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE)
    finally:
        kill_all(f"{MARK}={mark}\0")
    assert process.returncode == 0, errors
    assert_same_curve(curve(output), curve(together))
    result, expected = (json.loads((folder / "result.json").read_text()) for folder in (output, together))
    assert result["steps"] == expected["steps"] == STEPS
    assert result["loss"] == pytest.approx(expected["loss"], rel=2e-2)


class Bucket:
    """A bucket with the discs in it, and room for a run."""

    def __init__(self, server: S3Server, discs: Path) -> None:
        self._name, self._client = server.new_bucket(), server.client()
        self.data, self.output = f"s3://{self._name}/discs", f"s3://{self._name}/run"
        self.environment = server.environment()
        for path in discs.iterdir():
            self._client.put_object(Bucket=self._name, Key=f"discs/{path.name}", Body=path.read_bytes())

    def names(self) -> set[str]:
        answer = self._client.list_objects_v2(Bucket=self._name, Prefix="run/")
        return {item["Key"].removeprefix("run/") for item in answer.get("Contents", [])}

    def read(self, name: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=self._name, Key=f"run/{name}")["Body"].read()
        return content


@pytest.fixture
def bucket(guarded_s3: S3Server, discs: Path) -> Bucket:
    return Bucket(guarded_s3, discs)


@pytest.fixture
def machine() -> Iterator[Callable[[], dict[str, str]]]:
    """Environments of machines that know nothing of each other: temporary folders of their own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: Ray makes sockets in it
        yield lambda: {"TMPDIR": tempfile.mkdtemp(dir=folder)}


@pytest.mark.slow
def test_a_run_in_s3_is_taken_up_by_another_machine(
    bucket: Bucket, machine: Callable[[], dict[str, str]], alone: Path
) -> None:
    """The first has two of Ray's workers and loses its power; the second has one process."""
    process = start(train(bucket.data, bucket.output, workers=2), **machine(), **bucket.environment)
    wait_until(lambda: "checkpoints/last" in bucket.names(), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "result.json" not in bucket.names()

    done = run(train(bucket.data, bucket.output), **machine(), **bucket.environment)
    assert done.returncode == 0, done.stderr
    expected = {"config.json", "metrics.jsonl", "checkpoints/last", "checkpoints/best", "result.json"}
    assert expected <= bucket.names()
    assert any(name.startswith("tensorboard/") for name in bucket.names())
    assert_same_curve(lines(bucket.read("metrics.jsonl").decode()), curve(alone))
    assert json.loads(bucket.read("result.json"))["steps"] == STEPS
    assert f"the run lies in {bucket.output}" in done.stdout


def refused(line: list[str], *words: str) -> str:
    """Exit code 2, and a sentence; returns all that was told."""
    done = run(line)
    assert done.returncode == 2, (done.stdout, done.stderr)
    (sentence,) = [told for told in done.stderr.splitlines() if told.startswith("error: ")]
    assert all(word in sentence for word in words), sentence
    return done.stdout + done.stderr


def test_more_workers_than_the_cluster_has_room_for_are_refused(discs: Path, tmp_path: Path) -> None:
    line = train(discs, tmp_path / "run", workers=100, batch_size=100)
    refused(line, "--workers 100: expected a", "for each, this cluster has")


def test_a_batch_that_workers_cannot_share_is_refused_before_they_start(discs: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    refused(train(discs, tmp_path / "run", workers=5), "--batch-size 12: expected a multiple of the number of workers")
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_a_worker_cannot_read_is_told_in_a_sentence(discs: Path, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "damaged", SIZES)
    path = data / "train-000001.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    told = refused(
        train(data, tmp_path / "run", workers=2), "train-000001.tar: damaged after sample 0000000", "--skip-damaged"
    )
    assert told.count("Setting up process group") <= 1, told
