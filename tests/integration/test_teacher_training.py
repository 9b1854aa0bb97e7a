"""`python -m labeler.teacher.train` as users start it, by Ray and by torchrun: two learn together what one learns."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.jobs import command, run
from tests.support.seeing_teachers import data_set, looks

pytestmark = pytest.mark.slow


def curve(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> str:
    return data_set(tmp_path_factory.mktemp("people"), looks(10))


def train(data: str, output: Path, **settings: object) -> list[str]:
    chosen = {"epochs": 1, "batch_size": 4, "input_scale": 0.1, "learning_rate": 1e-4, "threads": 1} | settings
    return command(module="labeler.teacher.train", data=data, output=output, **chosen)


@pytest.fixture(scope="module")
def alone(people: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "run"
    done = run(train(people, output))
    assert done.returncode == 0, done.stderr
    assert len(curve(output)) == 3  # two steps and a validation
    return output


def assert_learnt_alike(output: Path, alone: Path) -> None:
    assert len(curve(output)) == 3
    for ours, theirs in zip(curve(output)[:2], curve(alone)[:2], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    ours, theirs = (load_file(folder / "teacher.safetensors") for folder in (output, alone))
    for name, weights in theirs.items():
        assert (ours[name] - weights).abs().max() < 2e-3, name


def test_rays_workers_learn_what_one_learns(people: str, alone: Path, tmp_path: Path) -> None:
    done = run(train(people, tmp_path / "run", workers=2))
    assert done.returncode == 0, done.stderr
    assert_learnt_alike(tmp_path / "run", alone)


def test_torchruns_processes_learn_what_one_learns_and_one_of_them_writes(
    people: str, alone: Path, tmp_path: Path
) -> None:
    line = train(people, tmp_path / "run")
    done = run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *line[1:]])
    assert done.returncode == 0, done.stderr
    assert_learnt_alike(tmp_path / "run", alone)
    assert done.stdout.count("the weights are") == 1


def test_more_workers_than_the_cluster_has_room_for_are_refused(people: str, tmp_path: Path) -> None:
    done = run(train(people, tmp_path / "run", batch_size=1000, workers=500))
    assert done.returncode == 2
    assert "--workers 500: expected a CPU for each, this cluster has" in done.stderr
