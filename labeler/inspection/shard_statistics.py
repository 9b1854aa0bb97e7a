"""Statistics of one shard: a row of figures for each sample, and sums over all samples."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.shards import Sample
from common.storage import open_storage
from labeler.inspection.map_measures import CELLS_PER_SIDE, compute_map_area, sum_by_cell
from labeler.inspection.reader import map_samples

NO_CLASS = -1
ROW_DTYPE = np.dtype(
    [
        ("shard", "i4"),  # position in the list of shards; 0 until the rows of several shards are joined
        ("key", "i4"),
        ("class", "i4"),
        ("width", "i4"),
        ("height", "i4"),
        ("points", "i4"),
        ("map_max", "f8"),
        ("map_mean", "f8"),  # as a fraction of the map's maximum
        ("map_area", "f8"),  # as a fraction of the frame
        ("digest", "S16"),  # first half of source_sha256
    ]
)


@dataclass
class SampleSums:
    """Sums over samples, for statistics that need no row for each sample."""

    # sum of the maps in each cell: see `sum_by_cell`
    mass: np.ndarray = field(default_factory=lambda: np.zeros((CELLS_PER_SIDE, CELLS_PER_SIDE)))
    points: np.ndarray = field(default_factory=lambda: np.zeros(3))  # x, y and strength of all gaze points
    squares: np.ndarray = field(default_factory=lambda: np.zeros(2))  # squared x and y of all gaze points
    turned: int = 0  # number of images whose EXIF orientation is not upright
    reencoded: Counter[str] = field(default_factory=Counter)  # number of re-encoded images by source format

    def add(self, sample: Sample) -> np.ndarray:
        """Add a sample and return its row (`ROW_DTYPE`, no dimensions).

        Raises ValueError, without adding anything, if the gaze points or map_max are not finite or have a wrong shape.
        """
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
                compute_map_area(sample.attention),
                bytes.fromhex(info.source_sha256)[:16],
            ),
            ROW_DTYPE,
        )
        self.mass += sum_by_cell(sample.attention)
        self.points += gaze.sum(axis=0)
        self.squares += (gaze[:, :2] ** 2).sum(axis=0)
        self.turned += info.exif_orientation != 1
        self.reencoded.update(filter(None, [info.reencoded_from]))
        return row

    def merge(self, other: "SampleSums") -> None:
        """Add the sums over other samples."""
        self.mass += other.mass
        self.points += other.points
        self.squares += other.squares
        self.turned += other.turned
        self.reencoded += other.reencoded


class ShardStatistics(NamedTuple):
    """Statistics of a shard: 64 bytes per sample, and sums of 4 KB."""

    shard: str
    rows: np.ndarray  # ROW_DTYPE [samples]
    sums: SampleSums
    problem: str | None  # the first one found while the shard was read


def compute_shard_statistics(dataset: str, shard: str, expected_samples: int) -> ShardStatistics:
    """Read a shard whose record counts `expected_samples`. Samples that cannot be read are skipped."""
    sums, problems = SampleSums(), list[str]()
    samples = map_samples(
        sums.add, open_storage(dataset), shard, on_problem=problems.append, expected_samples=expected_samples
    )
    rows = np.fromiter(samples, ROW_DTYPE)
    return ShardStatistics(shard, rows, sums, problems[0] if problems else None)
