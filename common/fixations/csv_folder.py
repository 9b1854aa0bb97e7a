"""Reader of eye tracking in a simple layout: a folder `images` and a table `fixations.csv` with a line per fixation.

Required columns are `image` (path below `images`), `subject` (a number or a name), `x` and `y`; `duration_ms` is
optional, and other columns are ignored. x and y are pixels measured from the image's upper left corner: x = 0 is the
left edge, x = width the right edge.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from common.errors import UserError, describe_error
from common.fixations.collector import Collector, RawFixations, list_image_files
from common.fixations.data import FixationData

REQUIRED_COLUMNS = ("image", "subject", "x", "y")
DURATION_COLUMN = "duration_ms"


class CsvReader(Protocol):
    """The interface of the object that `csv.reader` returns, whose own type is private."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...


class _Row(NamedTuple):
    image: str
    subject: str
    x: float
    y: float
    duration: float  # milliseconds; NaN if unknown


def read_csv(folder: Path) -> FixationData:
    """Read a folder in this layout. Raises UserError if a part of it is missing or the table cannot be parsed.

    Subjects are numbered across all images, in the order of their names.
    """
    path, images = folder / "fixations.csv", folder / "images"
    for needed in (path, images):
        if not needed.exists():
            raise UserError(f"{folder}: expected images/ and fixations.csv; there is no {needed}")
    columns, rows = _read_table(path)
    subject_numbers = _number_subjects({row.subject for row in rows})
    collector = Collector(folder, list_image_files(images))
    rows_by_image: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        rows_by_image[row.image].append(row)
    for name, image_rows in rows_by_image.items():
        positions = np.array([(row.x, row.y) for row in image_rows])
        subjects = np.array([subject_numbers[row.subject] for row in image_rows])
        durations = np.array([row.duration for row in image_rows]) if DURATION_COLUMN in columns else None
        collector.add(name, RawFixations(positions, subjects, durations))
    return collector.finish()


def _read_table(path: Path) -> tuple[list[str], list[_Row]]:
    """Return the names of the columns, and all rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
            reader = csv.reader(file, skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            missing = [name for name in REQUIRED_COLUMNS if name not in columns]
            if missing:
                found = ", ".join(columns) or "nothing"
                raise UserError(
                    f"{path}: expected the columns {', '.join(REQUIRED_COLUMNS)}; {missing[0]} is missing in: {found}"
                )
            return columns, list(_parse_rows(path, reader, columns))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a table: {describe_error(error)}") from None


def _parse_rows(path: Path, reader: CsvReader, columns: list[str]) -> Iterator[_Row]:
    image, subject, x, y = (columns.index(name) for name in REQUIRED_COLUMNS)
    duration = columns.index(DURATION_COLUMN) if DURATION_COLUMN in columns else None
    for fields in reader:
        if not any(fields):
            continue
        where = f"{path}: line {reader.line_num}"
        if len(fields) != len(columns):
            raise UserError(f"{where}: expected {len(columns)} fields, found {len(fields)}")
        for name, text in (("image", fields[image]), ("subject", fields[subject])):
            if not text.strip():
                raise UserError(f"{where}: {name} is empty")
        yield _Row(
            image=fields[image].strip(),
            subject=fields[subject].strip(),
            x=_parse_number(fields[x], where, "x"),
            y=_parse_number(fields[y], where, "y"),
            duration=math.nan if duration is None else _parse_number(fields[duration], where, DURATION_COLUMN),
        )


def _parse_number(text: str, where: str, column: str) -> float:
    """Parse a number; an empty field, which eye trackers write during blinks, becomes NaN."""
    try:
        return float(text) if text.strip() else math.nan
    except ValueError:
        raise UserError(f"{where}: {column}: expected a number, found {text!r}") from None


def _number_subjects(names: set[str]) -> dict[str, int]:
    """Number the subjects by name; sorted numerically (2 before 10) if all names are numbers."""
    key = (lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else (lambda name: (0, name))
    return {name: number for number, name in enumerate(sorted(names, key=key))}
