"""Progress bars, which a terminal redraws and a log receives as separate lines."""

import io
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

PROGRESS_DELAY = 2.0  # seconds before the progress bar of short work appears, so that quick work shows none
LOG_INTERVAL = 15.0  # seconds between two lines in a log


class _LineWriter(io.TextIOBase):
    """Text stream that prints each update of a progress bar as a line, which Ray also forwards from its workers."""

    def write(self, text: str) -> int:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)
        return len(text)


def progress_bar(items: Iterable[Any] | None = None, **options: Any) -> "tqdm[Any]":
    """Return a tqdm progress bar on standard error. `options` are tqdm's."""
    if sys.stderr.isatty():
        return tqdm(items, mininterval=0.2, **options)
    return tqdm(items, file=_LineWriter(), mininterval=LOG_INTERVAL, **options)
