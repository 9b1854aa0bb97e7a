"""Helpers for benchmarks: interleaved timing, because the machines are shared and noisy, and tables of results."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

RESULTS_VARIABLE = "BENCHMARK_RESULTS"  # environment variable that names the file to which results are appended
ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))  # benchmarks import this module first, and the project from the checkout afterwards


def median_seconds(repetitions: int, **cases: Callable[[], object]) -> dict[str, float]:
    """Return the median duration of each case in seconds.

    The cases take turns, so that other load on the machine affects all of them; the first turn is a warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(repetitions + 1):
        for name, case in cases.items():
            begin = time.perf_counter()
            case()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def print_table(title: str, rows: list[tuple[str, str, str]]) -> None:
    """Print rows of (what, figure, bar). Rows with a bar are also appended to the file named by RESULTS_VARIABLE."""
    if RESULTS_VARIABLE in os.environ:
        with open(os.environ[RESULTS_VARIABLE], "a") as file:
            file.writelines(json.dumps([title, *row]) + "\n" for row in rows if row[2])
    rows = [(title, "measured", "bar"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def compare_with_bar(figure: float, bar: float, unit: str = "x", at_most: bool = False) -> tuple[str, str]:
    """Format a figure, and its bar with whether it is reached. The bar is a minimum or, if `at_most`, a maximum."""
    reached = figure <= bar if at_most else figure >= bar
    sign = "<=" if at_most else ">="
    return f"{figure:.3g} {unit}", f"{sign} {bar:g} {unit}: {'reached' if reached else 'NOT reached'}"


def skip(reason: str) -> NoReturn:
    """Print why this benchmark cannot run here, and exit with code 0."""
    print(f"skipped: {reason}\n")
    sys.exit(0)


def require_path(path: Path) -> Path:
    """Return a path of development data; skip the benchmark if it does not exist."""
    if not path.exists():
        skip(f"needs {path}, which is not part of the project")
    return path
