"""Tests that torchrun does not bury the sentence of a UserError under its own traceback."""

import sys
from pathlib import Path

import pytest

from tests.support.jobs import run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("trainer.run", "error: FOLDER: expected a labeled data set, found no manifest.json"),
        ("labeler.teacher.train", "error: --data FOLDER: expected FORMAT:FOLDER"),
    ],
)
def test_report_of_torchrun_ends_with_the_error(program: str, message: str, tmp_path: Path) -> None:
    done = run([*TORCHRUN, program, "--data", str(tmp_path), "--output", str(tmp_path / "run")])
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if set(line) - {"="}]
    assert message.replace("FOLDER", str(tmp_path), 1) in lines[-1]
