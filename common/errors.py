"""Errors that users meet: mistakes that stop a program, and images that cannot be labeled."""

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import NoReturn

from pydantic import ValidationError


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

    A UserError or OSError is printed as one sentence and exits with code 2, Ctrl-C exits with code 130.
    """
    try:
        code = main()
        sys.stdout.flush()
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
        code = 130
    sys.exit(code)
