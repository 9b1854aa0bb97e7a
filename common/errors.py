"""The two kinds of trouble that a user meets: a mistake that stops the program, and an image that must be left out."""

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import NoReturn

from pydantic import ValidationError


class UserError(Exception):
    """Something only the user can mend. The message says what was expected, what was found and what to do."""


class Reason(StrEnum):
    """Why an image is not in the data set: the `reason` of `failures.jsonl`."""

    MISSING = "missing"  # listed when the job was planned, gone when it was read
    UNREADABLE = "unreadable"  # the file system refuses to read it, or it lies in an archive of the store
    CHANGED = "changed"  # another size than when the job was planned
    EMPTY = "empty"  # a file of 0 bytes
    NOT_AN_IMAGE = "not_an_image"  # no decoder knows these bytes
    TRUNCATED = "truncated"  # the file ends before the picture does
    CORRUPT = "corrupt"  # the decoder gave up
    TOO_LARGE = "too_large"  # more pixels than `max_pixels`
    TOO_SMALL = "too_small"  # a side below `min_side`
    NON_FINITE_MAP = "non_finite_map"  # the teacher's map holds NaN or infinity
    CONSTANT_MAP = "constant_map"  # the teacher's map has no maximum to find


class ImageFailure(ValueError):
    """One image cannot be labelled; the job goes on without it and says so."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[Reason, str]]:
        return ImageFailure, (self.reason, self.message)


def describe_error(error: Exception) -> str:
    """An error as one line, without pydantic's addresses."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return " ".join(str(error).split()) or type(error).__name__


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run an entry point: what only the user can mend becomes one sentence and exit code 2, Ctrl-C exit code 130."""
    try:
        code = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except BrokenPipeError:  # of `| head`, which has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:  # a disk that is full, a folder that may not be read
        where = f"{error.filename}: " if error.filename and error.strerror else ""
        print(f"error: {where}{error.strerror or describe_error(error)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        code = 130
    sys.exit(code)
