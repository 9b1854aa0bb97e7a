"""Helpers for benchmarks: interleaved timing, because the machines are shared and noisy, and tables of results."""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

RESULTS_VARIABLE = "BENCHMARK_RESULTS"  # environment variable that names the file to which results are appended
ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))  # benchmarks import this module first, and the project from the checkout afterwards


@dataclass(frozen=True)
class Row:
    """A result: one figure, several measurements of it, or a text. `at_least` and `at_most` are its bar."""

    what: str
    figure: float | Sequence[float] | str
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def values(self) -> list[float]:
        """The measurements; none if the figure is a text."""
        if isinstance(self.figure, str):
            return []
        return [float(value) for value in (self.figure if isinstance(self.figure, Sequence) else [self.figure])]

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the bar; None without a bar."""
        if self.at_least is None and self.at_most is None:
            return None
        median = statistics.median(self.values)
        return (self.at_least is None or median >= self.at_least) and (self.at_most is None or median <= self.at_most)

    def bar(self) -> str:
        """Format the bar, and whether it is reached."""
        if self.reached is None:
            return ""
        sign, bar = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{sign} {bar:g} {self.unit}: {'reached' if self.reached else 'NOT reached'}"

    def cells(self) -> list[str]:
        """Format the row for a table: what, median, minimum, maximum, bar."""
        if not self.values:
            return [self.what, str(self.figure), "", "", self.bar()]
        median = f"{statistics.median(self.values):,.4g} {self.unit}".rstrip()
        spread = [f"{end(self.values):,.4g}" for end in (min, max)] if len(self.values) > 1 else ["", ""]
        return [self.what, median, *spread, self.bar()]

    def to_json(self, benchmark: str) -> dict[str, Any]:
        """Return the row as an object for the results file."""
        values = self.values
        return {
            "benchmark": benchmark,
            "what": self.what,
            "unit": self.unit,
            "text": None if values else self.figure,
            "median": statistics.median(values) if values else None,
            "minimum": min(values, default=None),
            "maximum": max(values, default=None),
            "repetitions": len(values),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "reached": self.reached,
            "cells": self.cells(),
        }


def time_cases(repetitions: int, **cases: Callable[[], object]) -> dict[str, list[float]]:
    """Return the durations of each case in seconds, one per repetition.

    The cases take turns, so that other load on the machine affects all of them; the first turn is a warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(repetitions + 1):
        for name, case in cases.items():
            begin = time.perf_counter()
            case()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Divide measurements of the same repetitions."""
    return [a / b for a, b in zip(upper, lower, strict=True)]


def rates(seconds: Sequence[float], items: int) -> list[float]:
    """Return items per second of each repetition."""
    return [items / duration for duration in seconds]


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows with minimum, median and maximum, and append them to the file named by RESULTS_VARIABLE."""
    if RESULTS_VARIABLE in os.environ:
        with open(os.environ[RESULTS_VARIABLE], "a") as file:
            file.writelines(json.dumps(row.to_json(title)) + "\n" for row in rows)
    lines = [[title, "median", "minimum", "maximum", "bar"], *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()


def skip(reason: str) -> NoReturn:
    """Print why this benchmark cannot run here, and exit with code 0."""
    print(f"skipped: {reason}\n")
    sys.exit(0)


def require_path(path: Path) -> Path:
    """Return a path of development data; skip the benchmark if it does not exist."""
    if not path.exists():
        skip(f"needs {path}, which is not part of the project")
    return path


def peak_memory() -> float:
    """Return the peak resident memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
