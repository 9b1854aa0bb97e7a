"""Tests of checkpoints: writing that Ctrl-C interrupts, and files that are not checkpoints."""

import os
import select
import signal
import sys
from pathlib import Path

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
