import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from tests.support.jobs import ROOT

PROGRAM = "from common.progress import progress_bar\nfor _ in progress_bar(range(3), unit=' steps'): pass"


def test_progress_in_log_is_one_line_per_update():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert [line[:4] for line in done.stderr.splitlines()] == ["0%| ", "100%"]


def test_progress_on_terminal_is_redrawn_in_place():
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=child, check=True)
    os.close(child)
    assert b"\r100%|" in os.read(parent, 10_000)
