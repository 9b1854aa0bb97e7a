"""Statistics of the published shards of a data set, from its index instead of the shards."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from common.errors import describe_error
from common.manifest import INDEX, MANIFEST
from common.storage import Storage
from labeler.inspection.duplicates import Origin
from labeler.inspection.shard_statistics import ROW_DTYPE, STATISTICS_COLUMNS, to_statistics_rows
from labeler.publishing.index import DatasetIndex, UnusableIndex, find_changed_shard, open_index
from labeler.publishing.index_sums import SampleSums


class IndexStatistics(NamedTuple):
    """Statistics of all shards that an index covers, none if there is no index."""

    reader: DatasetIndex | None
    shards: list[str]
    rows: np.ndarray  # ROW_DTYPE [samples]; the column `shard` contains positions in `shards`
    sums: SampleSums

    def read_origins(self, positions: Iterable[int]) -> dict[int, Origin]:
        """Return the origins of the samples at some positions of the rows."""
        origins = {}
        for position in positions:
            assert self.reader is not None  # as there are rows
            row = self.reader.read_rows(position, position + 1, ["source", "source_sha256"])
            origins[position] = Origin(**row.to_pylist()[0])
        return origins


NO_INDEX = IndexStatistics(None, [], np.empty(0, ROW_DTYPE), SampleSums())


def read_index_statistics(storage: Storage, recorded: Mapping[str, int]) -> IndexStatistics:
    """Read the statistics of a published data set from its index.

    `recorded` holds the number of samples of each shard that has a record. Raises UnusableIndex, whose message says
    why, if the index is missing or damaged, or does not belong to the manifest, the shards and their records.
    """
    index = open_index(storage)
    shards = list(index.shards.values())
    if changed := find_changed_shard(storage, shards):
        raise UnusableIndex(changed)
    if any(recorded.get(shard.name) != shard.samples for shard in shards):
        raise UnusableIndex(f"the records of the shards do not match {MANIFEST}")
    rows, start = np.empty(sum(shard.samples for shard in shards), ROW_DTYPE), 0
    for table in index.read_groups(STATISTICS_COLUMNS):
        try:
            rows[start : start + len(table)] = to_statistics_rows(table)
        except ValueError as error:  # pyarrow's errors are ValueErrors, too
            raise UnusableIndex(f"{INDEX} is damaged: {describe_error(error)}") from None
        start += len(table)
    rows["shard"] = np.repeat(np.arange(len(shards)), [shard.samples for shard in shards])
    return IndexStatistics(index, list(index.shards), rows, index.sums)
