"""`python -m labeler.teacher.train` as a command: a single process, Ray workers and torchrun processes agree."""

import json
import os
import signal
import sys
import uuid
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.clusters import find_processes, kill_all
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.jobs import command, kill_when, run, start, wait_while_running

pytestmark = pytest.mark.slow


def read_metrics(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_fixation_data(tmp_path_factory.mktemp("people"), random_fixations(10))


def train_command(data: str, output: Path, **settings: object) -> list[str]:
    values = {"epochs": 1, "batch_size": 4, "input_scale": 0.1, "learning_rate": 1e-4, "threads": 1} | settings
    return command(module="labeler.teacher.train", data=data, output=output, **values)


@pytest.fixture(scope="module")
def single_process_run(people: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("single") / "run"
    done = run(train_command(people, output))
    assert done.returncode == 0, done.stderr
    assert len(read_metrics(output)) == 3  # two steps and a validation
    return output


def assert_same_training(output: Path, expected_output: Path) -> None:
    assert len(read_metrics(output)) == 3
    for metrics, expected in zip(read_metrics(output)[:2], read_metrics(expected_output)[:2], strict=True):
        assert metrics == pytest.approx(expected, rel=1e-3)
    weights, expected_weights = (load_file(folder / "teacher.safetensors") for folder in (output, expected_output))
    for name, tensor in expected_weights.items():
        assert (weights[name] - tensor).abs().max() < 2e-3, name


def test_ray_workers_train_like_a_single_process(people: str, single_process_run: Path, tmp_path: Path) -> None:
    done = run(train_command(people, tmp_path / "run", workers=2))
    assert done.returncode == 0, done.stderr
    assert_same_training(tmp_path / "run", single_process_run)


def test_torchrun_processes_train_like_a_single_process_and_one_of_them_prints(
    people: str, single_process_run: Path, tmp_path: Path
) -> None:
    line = train_command(people, tmp_path / "run")
    done = run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *line[1:]])
    assert done.returncode == 0, done.stderr
    assert_same_training(tmp_path / "run", single_process_run)
    assert done.stdout.count("saved the weights") == 1


def count_metrics(output: Path) -> int:
    return len(read_metrics(output)) if (output / "metrics.jsonl").exists() else 0


def test_killed_run_resumes_with_the_same_metrics_and_weights(people: str, tmp_path: Path) -> None:
    settings = {"epochs": 4, "checkpoint_every": 3}
    done = run(train_command(people, tmp_path / "whole", **settings))
    assert done.returncode == 0, done.stderr

    line = train_command(people, tmp_path / "run", **settings)
    for steps in (1, 5, 8):
        kill_when(lambda steps=steps: count_metrics(tmp_path / "run") >= steps, line)
    done = run(line)
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "run") == read_metrics(tmp_path / "whole")
    weights, expected = ((tmp_path / name / "teacher.safetensors").read_bytes() for name in ("run", "whole"))
    assert weights == expected


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by their /proc/PID/environ")
def test_run_recovers_from_a_killed_ray_worker(people: str, single_process_run: Path, tmp_path: Path) -> None:
    mark, output = uuid.uuid4().hex, tmp_path / "run"
    process = start(train_command(people, output, workers=2), TESTS_TEACHER=mark)
    try:
        wait_while_running(process, lambda: count_metrics(output) >= 1)
        os.kill(find_processes(f"TESTS_TEACHER={mark}\0", "RayTrainWorker")[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=180)
    finally:
        kill_all(f"TESTS_TEACHER={mark}\0")
    assert process.returncode == 0, errors
    assert_same_training(output, single_process_run)


def test_more_workers_than_the_cluster_has_cpus_are_a_user_error(people: str, tmp_path: Path) -> None:
    done = run(train_command(people, tmp_path / "run", batch_size=1000, workers=500))
    assert done.returncode == 2
    assert "--workers 500: expected a CPU for each, this cluster has" in done.stderr
