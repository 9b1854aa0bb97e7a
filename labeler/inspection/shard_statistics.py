"""Statistics of one shard: a row of figures for each sample, and sums over all samples."""

import functools
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.shards import MemberRanges, Sample
from common.storage import open_storage
from labeler.inspection.reader import map_located_samples
from labeler.publishing.index_rows import ShardRows, index_sample
from labeler.publishing.index_sums import SampleSums

NO_CLASS = -1
DIGEST_DIGITS = 32  # of source_sha256 in hexadecimal that are compared
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
# the columns of the index that `to_statistics_rows` needs
SAME_COLUMNS = ["class", "width", "height", "map_max", "map_mean", "map_area"]
STATISTICS_COLUMNS = ["key", "gaze_points", "source_sha256", *SAME_COLUMNS]


class ShardStatistics(NamedTuple):
    """Statistics of a shard: 64 bytes per sample, and sums of 4 KB."""

    shard: str
    rows: np.ndarray  # ROW_DTYPE [samples]
    sums: SampleSums
    problem: str | None  # the first one found while the shard was read


def compute_shard_statistics(dataset: str, shard: str, expected_samples: int) -> ShardStatistics:
    """Read a shard whose record counts `expected_samples`. Samples that cannot be read are skipped."""
    problems = list[str]()
    open_shard = functools.partial(open_storage(dataset).open, shard)
    rows = read_shard_rows(shard, open_shard, expected_samples, problems.append)
    return ShardStatistics(shard, to_statistics_rows(rows.to_table()), rows.sums, problems[0] if problems else None)


def read_shard_rows(
    shard: str,
    open_shard: Callable[[], BinaryIO],
    expected_samples: int,
    on_problem: Callable[[str], object],
    compute_phash: Callable[[Sample], str | None] = lambda sample: None,
) -> ShardRows:
    """Compute the rows of the index for a shard, and the sums over its samples, from the shard itself.

    Samples that cannot be read are skipped. Problems are passed to `on_problem`, without the name of the shard. By
    default the rows have no perceptual hashes, because these take longer than all other columns.
    """
    rows = ShardRows(shard)

    def add(sample: Sample, ranges: MemberRanges) -> None:
        rows.add(index_sample(sample, compute_phash(sample)), ranges)

    for _ in map_located_samples(add, open_shard, on_problem=on_problem, expected_samples=expected_samples):
        pass
    return rows


def to_statistics_rows(table: pa.Table) -> np.ndarray:
    """Convert rows of the index with `STATISTICS_COLUMNS` to `ROW_DTYPE` [samples]. Raises ValueError for other data.

    The column `shard` is 0.
    """
    if nulls := [name for name in STATISTICS_COLUMNS if name != "class" and table[name].null_count]:
        raise ValueError(f"null values in {', '.join(nulls)}")
    rows = np.zeros(len(table), ROW_DTYPE)
    rows["key"] = pc.cast(table["key"], pa.int32()).to_numpy()
    rows["points"] = table["gaze_points"].to_numpy()
    for name in SAME_COLUMNS:
        rows[name] = pc.fill_null(table[name], NO_CLASS).to_numpy()
    digits = "".join(digest[:DIGEST_DIGITS] for digest in table["source_sha256"].to_pylist())
    rows["digest"] = np.frombuffer(bytes.fromhex(digits), "S16")
    return rows
