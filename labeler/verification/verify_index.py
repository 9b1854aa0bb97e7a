"""Verification of the rows that the index of a data set has for a shard, against the shard."""

import functools
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.manifest import INDEX
from common.storage import ReadableStorage
from labeler.inspection.shard_statistics import read_shard_rows
from labeler.publishing.index import DatasetIndex, UnusableIndex, open_index
from labeler.publishing.index_rows import SCHEMA

PHASH = "phash"  # only its form is checked: computing it means decoding every image, which some data sets do not have
PHASH_FORM = "^[0-9a-f]{64}$"
TOLERANCE = 1e-6  # relative: another processor may round differently


class IndexChecker:
    """Checker of the rows of shards in the index of one data set, which opens the index only once."""

    def __init__(self, storage: ReadableStorage) -> None:
        self._storage = storage

    def find_problems(self, shard: str, file: BinaryIO) -> list[str]:
        """Return what is wrong with the rows of a shard, whose content is `file`; nothing if the index has none of it.

        An index that cannot be used is not a problem of the shard.
        """
        if self._index is None or shard not in self._index.shards:
            return []
        file.seek(0)
        return find_index_problems(self._index, shard, file)

    @functools.cached_property
    def _index(self) -> DatasetIndex | None:
        try:
            return open_index(self._storage)
        except UnusableIndex:  # `find_published_problems` and `verify_copy` report it
            return None


def find_index_problems(index: DatasetIndex, shard: str, file: BinaryIO) -> list[str]:
    """Compare the rows of a shard, an open file without problems of its own, with those computed from its samples.

    The file is closed. Returns a problem for each column that differs.
    """
    expected = read_shard_rows(shard, lambda: file, index.shards[shard].samples, lambda problem: None).to_table()
    try:
        found = index.read_shard(shard)
    except UnusableIndex as problem:
        return [str(problem)]
    differing = [name for name in SCHEMA.names if name != PHASH and not _is_same(found[name], expected[name])]
    if not pc.all(pc.match_substring_regex(found[PHASH], PHASH_FORM), min_count=0).as_py():
        differing.append(PHASH)
    return [f"{INDEX} does not match it: {', '.join(differing)}"] if differing else []


def _is_same(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> bool:
    if pa.types.is_floating(expected.type) and len(found) == len(expected) and not found.null_count:
        return np.allclose(found.to_numpy(), expected.to_numpy(), rtol=TOLERANCE, atol=0)
    return bool(found.equals(expected))
