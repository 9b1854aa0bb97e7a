import signal
import sys

import pytest

from common.errors import UserError, run_program
from tests.support.jobs import start


@pytest.mark.parametrize(
    ("trouble", "code", "told"),
    [
        (UserError("--x: choose another"), 2, "error: --x: choose another\n"),
        (
            OSError(28, "No space left on device", "shard.tar"),
            2,
            "error: shard.tar: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to go on\n"),
    ],
)
def test_what_stops_a_program_is_one_sentence(trouble, code, told, capsys):
    def fails() -> int:
        raise trouble

    with pytest.raises(SystemExit) as stopped:
        run_program(fails)
    assert stopped.value.code == code
    assert capsys.readouterr().err == told


def test_a_reader_that_has_seen_enough_is_no_trouble():
    program = "from common.errors import run_program; run_program(lambda: print('line\\n' * 100_000) or 0)"
    process = start([sys.executable, "-c", program])
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 1
    assert errors == ""


def test_a_signal_that_python_turns_into_an_interrupt_is_told_likewise():
    program = "import time\nfrom common.errors import run_program\n"
    program += "run_program(lambda: print('here', flush=True) or time.sleep(60) or 0)"
    process = start([sys.executable, "-c", program])
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()
