"""Anyone's own eye tracking: a folder `images` and a table `fixations.csv` with a line for each fixation.

Columns are `image` (path below `images`), `subject` (a number or a name), `x`, `y` and, if known, `duration_ms`; others
are ignored. x and y are pixels of the image from its upper left corner: 0 is its left edge, its width the right one.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from common.errors import UserError, describe_error
from common.fixations.collector import Collector, RawFixations, image_files
from common.fixations.data import FixationData

REQUIRED = ("image", "subject", "x", "y")
DURATION = "duration_ms"


class Rows(Protocol):
    """What `csv.reader` makes."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


class _Line(NamedTuple):
    image: str
    subject: str
    x: float
    y: float
    duration: float


def read_csv(folder: Path) -> FixationData:
    """Read such a folder. Subjects are numbered through all images, in the order of their names. Raises UserError."""
    path, images = folder / "fixations.csv", folder / "images"
    for needed in (path, images):
        if not needed.exists():
            raise UserError(f"{folder}: expected images/ and fixations.csv; there is no {needed}")
    columns, lines = _read(path)
    numbers = _numbered({line.subject for line in lines})
    collector = Collector(folder, image_files(images))
    by_image: dict[str, list[_Line]] = defaultdict(list)
    for line in lines:
        by_image[line.image].append(line)
    for name, looks in by_image.items():
        positions = np.array([(line.x, line.y) for line in looks])
        subjects = np.array([numbers[line.subject] for line in looks])
        durations = np.array([line.duration for line in looks]) if DURATION in columns else None
        collector.add(name, RawFixations(positions, subjects, durations))
    return collector.finish()


def _read(path: Path) -> tuple[list[str], list[_Line]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel puts a byte order mark before its tables
            rows = csv.reader(file, skipinitialspace=True)
            columns = [name.strip() for name in next(rows, [])]
            missing = [name for name in REQUIRED if name not in columns]
            if missing:
                found = ", ".join(columns) or "nothing"
                raise UserError(
                    f"{path}: expected the columns {', '.join(REQUIRED)}; {missing[0]} is missing in: {found}"
                )
            return columns, list(_lines(path, rows, columns))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table: {describe_error(error)}") from None


def _lines(path: Path, rows: Rows, columns: list[str]) -> Iterator[_Line]:
    image, subject, x, y = (columns.index(name) for name in REQUIRED)
    duration = columns.index(DURATION) if DURATION in columns else None
    for row in rows:
        if not any(row):
            continue
        where = f"{path}: line {rows.line_num}"
        if len(row) != len(columns):
            raise UserError(f"{where}: expected {len(columns)} fields, found {len(row)}")
        for name, text in (("image", row[image]), ("subject", row[subject])):
            if not text.strip():
                raise UserError(f"{where}: {name} is empty")
        time = math.nan if duration is None else _number(row[duration], where, DURATION)
        yield _Line(
            row[image].strip(), row[subject].strip(), _number(row[x], where, "x"), _number(row[y], where, "y"), time
        )


def _number(text: str, where: str, column: str) -> float:
    """An empty field, as eye trackers leave at blinks, is NaN."""
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        raise UserError(f"{where}: {column}: expected a number, found {text!r}") from None


def _numbered(names: set[str]) -> dict[str, int]:
    """Numbers for subjects: 2 before 10 where all of them are numbers."""
    key = (lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else (lambda name: (0, name))
    return {name: number for number, name in enumerate(sorted(names, key=key))}
