import signal
import sys

import pytest

from common.errors import UserError, run_program
from tests.support.jobs import start


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("--x: choose another"), 2, "error: --x: choose another\n"),
        (
            OSError(28, "No space left on device", "shard.tar"),
            2,
            "error: shard.tar: No space left on device\n",
        ),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to resume\n"),
    ],
)
def test_errors_end_program_with_one_sentence_and_exit_code(error, code, message, capsys):
    def main() -> int:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_program(main)
    assert stopped.value.code == code
    assert capsys.readouterr().err == message


def test_closed_output_pipe_ends_program_without_message():
    program = "from common.errors import run_program; run_program(lambda: print('line\\n' * 100_000) or 0)"
    process = start([sys.executable, "-c", program])
    assert process.stdout.readline() == "line\n"
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 1
    assert errors == ""


def test_interrupt_signal_ends_program_without_traceback():
    program = "import time\nfrom common.errors import run_program\n"
    program += "run_program(lambda: print('here', flush=True) or time.sleep(60) or 0)"
    process = start([sys.executable, "-c", program])
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "Traceback" not in process.stderr.read()
