"""Tests of the settings of runs, and of checkpoints whose writing Ctrl-C interrupts."""

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.storage.run_folder import RunFolder
from common.training import save_or_check_settings
from tests.support.jobs import start

SAVING = """
import sys
from pathlib import Path
import torch
from common.errors import run_program
from common.training import save_checkpoint

run_program(lambda: save_checkpoint(Path(sys.argv[1]), {"weights": torch.zeros(1_000_000)}) or 0)
"""
TIMEOUT = 60  # seconds


def test_interrupt_while_a_checkpoint_is_written_ends_the_program_as_ctrl_c_does(tmp_path: Path) -> None:
    path = tmp_path / "last"
    path.write_bytes(b"earlier checkpoint")
    os.mkfifo(tmp_path / "last.partial")  # a write to a pipe that nobody reads waits
    pipe = os.open(tmp_path / "last.partial", os.O_RDONLY | os.O_NONBLOCK)
    try:
        process = start([sys.executable, "-c", SAVING, str(path)])
        assert select.select([pipe], [], [], TIMEOUT)[0], process.communicate()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        os.close(pipe)
    assert (process.returncode, errors) == (130, "stopped; run the same command again to resume\n")
    assert path.read_bytes() == b"earlier checkpoint"
    assert os.listdir(tmp_path) == ["last"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "holds a run with other settings: epochs was None, is 3"),
        ('{"architectures": ["ResNet"]}', "holds a run with other settings: epochs was None, is 3"),
        ("[]", r"config\.json: expected the settings of a run, found another file"),
    ],
)
def test_settings_file_of_another_program_is_refused_and_not_changed(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        save_or_check_settings(RunFolder(str(tmp_path)), "config.json", {"epochs": 3})
    assert (tmp_path / "config.json").read_text() == content
