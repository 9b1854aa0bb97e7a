"""`python -m labeler.teacher.train` as users start it, on two of Ray's workers: they learn together what one learns."""

import json
from pathlib import Path

import pytest

from tests.jobs import command, run
from tests.seeing_teachers import data_set, looks

pytestmark = pytest.mark.slow


def curve(output: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_two_workers_learn_what_one_learns(tmp_path: Path) -> None:
    data = data_set(tmp_path / "people", looks(10))
    settings = {"data": data, "epochs": 1, "batch_size": 4, "input_scale": 0.1, "learning_rate": 1e-4}
    for workers in (1, 2):
        line = command(
            module="labeler.teacher.train", output=tmp_path / f"by{workers}", workers=workers, threads=1, **settings
        )
        done = run(line)
        assert done.returncode == 0, done.stderr
    one, two = curve(tmp_path / "by1"), curve(tmp_path / "by2")
    assert len(one) == len(two) == 3  # two steps and a validation
    for ours, theirs in zip(two[:2], one[:2], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert (tmp_path / "by2/teacher.safetensors").is_file()


def test_more_workers_than_the_cluster_has_room_for_are_refused(tmp_path: Path) -> None:
    data = data_set(tmp_path / "people", looks(10))
    done = run(
        command(module="labeler.teacher.train", data=data, output=tmp_path / "run", batch_size=1000, workers=500)
    )
    assert done.returncode == 2
    assert "--workers 500: expected a CPU for each, this cluster has" in done.stderr
