"""A line of progress: redrawn in place on a terminal, one line after the other in a log."""

import io
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

EVERY = 15.0  # seconds, in a log


class _Lines(io.TextIOBase):
    """Each state of the line is a line of its own, which Ray hands on from its workers too."""

    def write(self, text: str) -> int:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)
        return len(text)


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """tqdm's bar with such options, on standard error."""
    if sys.stderr.isatty():
        return tqdm(items, mininterval=0.2, **options)
    return tqdm(items, file=_Lines(), mininterval=EVERY, **options)
