"""The rows of the index: what it states about each sample of a shard."""

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from common.shards import MEMBERS, MemberRanges, Sample
from labeler.publishing.index_sums import SampleSums
from labeler.publishing.map_measures import compute_map_area, compute_map_mean, sum_by_cell

COLUMNS: dict[str, pa.DataType] = {
    "key": pa.string(),
    "source": pa.string(),
    "wnid": pa.string(),
    "class": pa.int32(),  # null without classes
    "shard": pa.string(),
    "source_sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "exif_orientation": pa.int32(),
    "reencoded_from": pa.string(),
    "map_max": pa.float64(),
    "map_mean": pa.float64(),  # of the stored map, as a fraction of its maximum
    "map_area": pa.float64(),  # as a fraction of the frame: see `compute_map_area`
    "gaze_points": pa.int32(),
    "phash": pa.string(),  # perceptual hash of the upright image in hexadecimal; null if unknown or almost uniform
}
INFO_COLUMNS = ("source", "wnid", "source_sha256", "width", "height", "exif_orientation", "reencoded_from", "map_max")
# where the content of each member lies in the shard, in bytes; null if the sample does not have the member
RANGE_COLUMNS = {
    extension: [f"{extension.replace('.', '_')}_{part}" for part in ("offset", "size")] for extension in MEMBERS
}
SCHEMA = pa.schema(COLUMNS | {name: pa.int64() for names in RANGE_COLUMNS.values() for name in names})
# columns with few distinct values; the others are stored without a dictionary
DICTIONARY_COLUMNS = ["wnid", "class", "shard", "exif_orientation", "reencoded_from"]
ROWS_PER_BATCH = 4096  # collected as Python objects, which take ten times the memory of a batch


class IndexedSample(NamedTuple):
    """What the index states about a sample, wherever it is stored: values by column, and its part of the sums."""

    row: dict[str, Any]
    sums: SampleSums


def index_sample(sample: Sample, phash: str | None = None) -> IndexedSample:
    """Compute what the index states about a sample. `phash` is the perceptual hash of its image, None if unknown.

    Raises ValueError if the gaze points or map_max are not finite or have a wrong shape.
    """
    info, gaze = sample.info, sample.gaze.astype(np.float64)
    if gaze.ndim != 2 or gaze.shape[1] != 3 or not (np.isfinite(gaze).all() and math.isfinite(info.map_max)):
        raise ValueError(f"points {gaze.shape} and map_max {info.map_max:g}; expected finite numbers, points [n, 3]")
    row = {name: getattr(info, name) for name in INFO_COLUMNS} | {
        "key": sample.key,
        "class": sample.class_index,
        "map_mean": compute_map_mean(sample.attention),
        "map_area": compute_map_area(sample.attention),
        "gaze_points": len(gaze),
        "phash": phash,
    }
    sums = SampleSums(
        mass=sum_by_cell(sample.attention),
        points=gaze.sum(axis=0),
        squares=(gaze[:, :2] ** 2).sum(axis=0),
        turned=int(info.exif_orientation != 1),
    )
    sums.reencoded.update(filter(None, [info.reencoded_from]))
    return IndexedSample(row, sums)


class ShardRows:
    """The rows of a shard's samples and the sums over them, collected while the shard is written or read."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.sums = SampleSums()
        self._batches: list[pa.RecordBatch] = []
        self._rows: list[dict[str, Any]] = []  # of the next batch

    def add(self, sample: IndexedSample, ranges: MemberRanges) -> None:
        """Add the next sample of the shard; `ranges` states where its files lie in it."""
        row = sample.row | {"shard": self.shard}
        for extension, place in ranges.items():
            row |= zip(RANGE_COLUMNS[extension], place, strict=True)
        self._rows.append(row)
        self.sums.merge(sample.sums)
        if len(self._rows) == ROWS_PER_BATCH:
            self._finish_batch()

    def to_table(self) -> pa.Table:
        """Return the rows with the columns of `SCHEMA`."""
        self._finish_batch()
        return pa.Table.from_batches(self._batches, SCHEMA)

    def _finish_batch(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, SCHEMA))
        self._rows = []
