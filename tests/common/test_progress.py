import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from tests.support.jobs import ROOT

PROGRAM = "from common.progress import progress_bar\nfor _ in progress_bar(range(3), unit=' steps'): pass"


def test_in_a_log_each_state_is_a_line():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "\r" not in done.stderr
    assert [line[:4] for line in done.stderr.splitlines()] == ["0%| ", "100%"]


def test_on_a_terminal_the_line_is_redrawn():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    assert b"\r100%|" in os.read(ours, 10_000)
