"""Errors that users meet: mistakes that stop a program, and images that cannot be labeled."""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError

SIGTERM_EXIT_CODE = 128 + signal.SIGTERM  # 143, what a shell reports for a program that the signal has ended

_sigterm_received = False
_blocks_without_interruption = 0  # that the main thread is in
_interruption_postponed = False


class UserError(Exception):
    """An error that only the user can fix. The message says what was expected, what was found and what to do."""


class Reason(StrEnum):
    """Why an image is not in the data set: the `reason` field in `failures.jsonl`."""

    MISSING = "missing"  # listed when the job was planned, absent when it was read
    UNREADABLE = "unreadable"  # the file system refuses to read it, or the object is in an S3 archive
    CHANGED = "changed"  # its size differs from the one in the plan's listing
    EMPTY = "empty"  # a file of 0 bytes
    NOT_AN_IMAGE = "not_an_image"  # no decoder recognizes the bytes
    TRUNCATED = "truncated"  # the file ends before the image does
    CORRUPT = "corrupt"  # the decoder failed
    TOO_LARGE = "too_large"  # more pixels than `max_pixels`
    TOO_SMALL = "too_small"  # a side shorter than `min_side`
    NON_FINITE_MAP = "non_finite_map"  # the teacher's map contains NaN or infinity
    CONSTANT_MAP = "constant_map"  # the teacher's map is constant, so it has no maximum


class ImageFailure(ValueError):
    """An image that cannot be labeled. The job records the failure and continues with the other images."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[Reason, str]]:
        return ImageFailure, (self.reason, self.message)


def describe_error(error: Exception) -> str:
    """Return an error's message on one line; of a pydantic error, only the first problem and without its URL."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return " ".join(str(error).split()) or type(error).__name__


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run a program's main function and exit with the code that it returns.

    A UserError or OSError is printed as one sentence and exits with code 2. Ctrl-C exits with code 130, and SIGTERM,
    which clusters send to stop a job, with code 143.
    """
    handle_sigterm()
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not in a shell's background
        signal.signal(signal.SIGINT, lambda signal_number, frame: _interrupt())
    try:
        try:
            code = main()
            sys.stdout.flush()
        except BaseException:
            if _sigterm_received:
                raise KeyboardInterrupt from None  # whatever else the signal has led to
            raise
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # such as a full disk or a missing permission
        where = f"{error.filename}: " if error.filename and error.strerror else ""
        print(f"error: {where}{error.strerror or describe_error(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        code = SIGTERM_EXIT_CODE if _sigterm_received else 130
    sys.exit(code)


def handle_sigterm() -> None:
    """Let SIGTERM stop this program as Ctrl-C does, so that it removes what it has not finished.

    Ray replaces the handler when it starts; call this function again after that.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, functools.partial(_on_sigterm, os.getpid()))


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Postpone Ctrl-C and SIGTERM to the end of the `with` block, in a program that `run_program` runs.

    For calls that a KeyboardInterrupt in their middle would break: a thread may wait forever for another one if the
    notification between them is interrupted.
    """
    global _blocks_without_interruption, _interruption_postponed
    if threading.current_thread() is not threading.main_thread():  # Python interrupts only the main thread
        yield
        return
    _blocks_without_interruption += 1
    try:
        yield
    finally:
        _blocks_without_interruption -= 1
        if _interruption_postponed and not _blocks_without_interruption:
            _interruption_postponed = False
            raise KeyboardInterrupt


def stop_program() -> None:
    """Stop this program as SIGTERM does, if something else than the handler has received the signal."""
    global _sigterm_received
    _sigterm_received = True
    _interrupt()


def _on_sigterm(program: int, signal_number: int, frame: FrameType | None) -> None:
    if os.getpid() != program:  # a forked process has nothing to remove
        os._exit(SIGTERM_EXIT_CODE)
    if not _sigterm_received:  # a second signal must not interrupt what the first one has started
        stop_program()


def _interrupt() -> None:
    """Raise KeyboardInterrupt, the only exception of a signal handler that Ray's own code passes on."""
    global _interruption_postponed
    if _blocks_without_interruption:
        _interruption_postponed = True
    else:
        raise KeyboardInterrupt
