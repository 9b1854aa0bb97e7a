"""What the benchmarks share: interleaved repetitions, because the machines are shared and noisy, and a small table."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

RESULTS = "BENCHMARK_RESULTS"  # environment variable
ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = ROOT.parent / "shared" / "data"
sys.path.insert(0, str(ROOT))  # so that a benchmark, which imports this first, runs from a checkout


def medians(repetitions: int, **cases: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each case. They take turns, so that a busy moment hits all; the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repetition in range(repetitions + 1):
        for name, case in cases.items():
            begin = time.perf_counter()
            case()
            if repetition:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(title: str, rows: list[tuple[str, str, str]]) -> None:
    """Print rows of (what, figure, bar); those with a bar also go into the file that RESULTS names, if it is set."""
    if RESULTS in os.environ:
        with open(os.environ[RESULTS], "a") as file:
            file.writelines(json.dumps([title, *row]) + "\n" for row in rows if row[2])
    rows = [(title, "measured", "bar"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


def against(figure: float, bar: float, unit: str = "x", most: bool = False) -> tuple[str, str]:
    """A figure and its bar as cells, with whether it is reached. The bar is the least; with `most`, the most."""
    reached = figure <= bar if most else figure >= bar
    return f"{figure:.3g} {unit}", f"{'<=' if most else '>='} {bar:g} {unit}: {'reached' if reached else 'NOT reached'}"


def skip(reason: str) -> NoReturn:
    """Say why there is nothing to measure here."""
    print(f"skipped: {reason}\n")
    sys.exit(0)


def needed(path: Path) -> Path:
    """The path of development data, or skip."""
    if not path.exists():
        skip(f"needs {path}, which is not part of the project")
    return path
