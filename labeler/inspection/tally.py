"""What statistics keep of a shard: a row of figures for each sample, and sums over all of them."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.shards import Sample
from common.storage import open_storage
from labeler.inspection.survey import CommittedShards, map_area, read_each

CELLS = 21  # a side, in which maps are summed: sevenths and thirds of the frame are both made of them
NO_CLASS = -1
ROW = np.dtype(
    [
        ("shard", "i4"),  # its place in the order of the shards; 0 until shards are put together
        ("key", "i4"),
        ("class", "i4"),
        ("width", "i4"),
        ("height", "i4"),
        ("points", "i4"),
        ("map_max", "f8"),
        ("map_mean", "f8"),  # a part of the map's maximum
        ("map_area", "f8"),  # a part of the frame
        ("digest", "S16"),  # the first half of source_sha256
    ]
)


@dataclass
class Sums:
    """Sums over samples, of what needs no row."""

    maps: np.ndarray = field(default_factory=lambda: np.zeros((CELLS, CELLS)))  # mass in each cell, rows from the top
    points: np.ndarray = field(default_factory=lambda: np.zeros(3))  # x, y, strength
    squares: np.ndarray = field(default_factory=lambda: np.zeros(2))  # of x and y
    turned: int = 0  # images that a viewer turns, by their EXIF
    reencoded: Counter[str] = field(default_factory=Counter)  # by the source's format

    def merge(self, other: "Sums") -> None:
        """Add those of other samples."""
        self.maps += other.maps
        self.points += other.points
        self.squares += other.squares
        self.turned += other.turned
        self.reencoded += other.reencoded

    def add(self, sample: Sample) -> np.ndarray:
        """Add a sample. Returns its ROW. Raises ValueError, and adds nothing, where its figures make no sense."""
        info, gaze = sample.info, sample.gaze.astype(np.float64)
        if gaze.ndim != 2 or gaze.shape[1] != 3 or not (np.isfinite(gaze).all() and math.isfinite(info.map_max)):
            raise ValueError(
                f"points {gaze.shape} and map_max {info.map_max:g}; expected finite numbers, points [n, 3]"
            )
        row = np.array(
            (
                0,
                int(sample.key),
                NO_CLASS if sample.class_index is None else sample.class_index,
                info.width,
                info.height,
                len(gaze),
                info.map_max,
                sample.attention.mean() / 255,
                map_area(sample.attention),
                bytes.fromhex(info.source_sha256)[:16],
            ),
            ROW,
        )
        self.maps += mass_by_cell(sample.attention)
        self.points += gaze.sum(axis=0)
        self.squares += (gaze[:, :2] ** 2).sum(axis=0)
        self.turned += info.exif_orientation != 1
        self.reencoded.update(filter(None, [info.reencoded_from]))
        return row


class Tally(NamedTuple):
    """The figures of a shard: 64 bytes a sample, however large its picture and map, and 4 KB of sums."""

    shard: str
    rows: np.ndarray  # ROW [samples]
    sums: Sums
    trouble: str | None  # the first thing that could not be read


def tally_shard(dataset: str, shard: str, samples: int) -> Tally:
    """Read a shard whose record counts so many samples. What cannot be read is left out, and told as its trouble."""
    committed, sums = CommittedShards(shards={shard: samples}), Sums()
    rows = np.fromiter(read_each(open_storage(dataset), shard, committed, sums.add), ROW)
    return Tally(shard, rows, sums, committed.notes.get(shard))


def mass_by_cell(attention: np.ndarray) -> np.ndarray:
    """A map, uint8 [H, W] -> its sum over each of CELLS x CELLS equal parts of the frame, in pixels of the maximum.

    A pixel on a border counts in each part as far as it lies there.
    """
    height, width = attention.shape
    return _overlaps(height) @ (attention / 255) @ _overlaps(width).T


def _overlaps(pixels: int) -> np.ndarray:
    """How much of each pixel of a line lies in each of its CELLS equal parts: [CELLS, pixels]."""
    borders, starts = np.arange(CELLS + 1)[:, None] * (pixels / CELLS), np.arange(pixels)
    return (np.minimum(borders[1:], starts + 1) - np.maximum(borders[:-1], starts)).clip(0)
