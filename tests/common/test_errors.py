import json
import signal
import subprocess
import sys
import time

import pytest

from common.errors import UserError, run_program
from tests.support.jobs import run, start


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


PROGRAM = """
import os, signal, sys, time
from common.errors import run_program, uninterrupted

def interrupt():
    os.kill(os.getpid(), signal.{name})

def main():
{body}
    return 0

run_program(main)
"""
SENTENCE = "stopped; run the same command again to resume\n"
CODES = {"SIGTERM": 143, "SIGINT": 130}


def run_body(body: str, name: str = "SIGTERM") -> "subprocess.CompletedProcess[str]":
    """Run a program whose main function has this body; `interrupt()` sends the signal to the program."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return run([sys.executable, "-c", PROGRAM.format(name=name, body=lines)])


@pytest.mark.parametrize("name", CODES)
def test_signal_ends_program_with_one_sentence_after_its_cleanup(name):
    done = run_body("try:\n    interrupt()\n    time.sleep(60)\nfinally:\n    print('clean')", name)
    assert (done.returncode, done.stdout, done.stderr) == (CODES[name], "clean\n", SENTENCE)


def test_second_sigterm_does_not_interrupt_the_cleanup():
    done = run_body("try:\n    interrupt()\n    time.sleep(60)\nfinally:\n    interrupt()\n    print('clean')")
    assert (done.returncode, done.stdout, done.stderr) == (143, "clean\n", SENTENCE)


@pytest.mark.parametrize("error", ["RuntimeError('no cluster')", "OSError('no file')", "SystemExit(1)"])
def test_error_that_follows_from_sigterm_is_not_shown(error):
    done = run_body(f"try:\n    interrupt()\n    time.sleep(60)\nfinally:\n    raise {error}")
    assert (done.returncode, done.stderr) == (143, SENTENCE)


def test_forked_process_that_gets_sigterm_ends_silently():
    """As processes that read data do; only the program itself explains how to resume."""
    body = "if not os.fork():\n    interrupt()\n    time.sleep(60)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))"
    done = run_body(body)
    assert (done.returncode, done.stdout, done.stderr) == (0, "143\n", "")


@pytest.mark.parametrize("name", CODES)
def test_signal_is_postponed_to_the_end_of_a_block_that_must_not_be_interrupted(name):
    body = "with uninterrupted():\n    with uninterrupted():\n        interrupt()\n    print('whole')\nprint('never')"
    done = run_body(body, name)
    assert (done.returncode, done.stdout, done.stderr) == (CODES[name], "whole\n", SENTENCE)


@pytest.mark.parametrize("name", CODES)
def test_signal_while_metrics_are_logged_does_not_break_the_log(name, tmp_path):
    """A signal within the hand-over to tensorboardX's thread made `close` wait for that thread forever."""
    body = f"""
from pathlib import Path
from common.training import MetricLog
log = MetricLog(Path({str(tmp_path)!r}), 0)
add_scalar = log._events.add_scalar
log._events.add_scalar = lambda *entry: (interrupt(), add_scalar(*entry))
try:
    log.write(1, loss=2.0, means={{"a": 3.0}})
finally:
    log.close()
"""
    done = run_body(body, name)
    assert (done.returncode, done.stderr) == (CODES[name], SENTENCE)
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "loss": 2.0, "means": {"a": 3.0}}
    [events] = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    assert b"means/a" in events.read_bytes()


def test_sigterm_does_not_wait_for_work_in_processes():
    body = "from common.parallel import in_processes\nimport threading\n"
    body += "threading.Timer(5, interrupt).start()\nlist(in_processes(time.sleep, [100] * 4, processes=2, unit='naps'))"
    start_time = time.monotonic()
    done = run_body(body)
    assert (done.returncode, done.stderr) == (143, SENTENCE)
    assert time.monotonic() - start_time < 60
