"""The hashes of a data set, and the rows of its images, from the index."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from common.errors import UserError
from common.manifest import INDEX
from common.storage import Storage, open_storage
from labeler.near_duplicates.hashes import pack_hashes
from labeler.publishing.index import DatasetIndex, UnusableIndex, find_changed_shard, open_index
from labeler.publishing.index_rows import RANGE_COLUMNS, SCHEMA

COLUMNS = [
    *("key", "source", "wnid", "shard", "source_sha256", "reencoded_from", "width", "height", "exif_orientation"),
    *(column for member in ("jpg", "attn.png", "gaze.npy") for column in RANGE_COLUMNS[member]),
]


class HashedDataset(NamedTuple):
    """A published data set whose index has hashes."""

    location: str
    storage: Storage
    reader: DatasetIndex
    hashes: np.ndarray  # uint64 [n, 4], see `pack_hashes`
    rows: np.ndarray  # int64 [n]: row of the index of each hash
    samples: int
    has_images: bool

    def find_unpublished_shards(self) -> list[str]:
        """Return the names of committed shards that the manifest does not have, as while a data set grows."""
        names = self.storage.list_sizes()
        return [name for name in names if name.endswith(".tar") and name not in self.reader.shards]

    def read_rows(self, positions: np.ndarray) -> pa.Table:
        """Read `COLUMNS` of the images at some sorted positions of `hashes`."""
        return _concat(self._select_rows(self.rows[positions]), COLUMNS)

    def _select_rows(self, rows: np.ndarray) -> Iterator[pa.Table]:
        start = 0
        for group in self.reader.read_groups(COLUMNS):
            inside = rows[(rows >= start) & (rows < start + len(group))]
            yield group.take(pa.array(inside - start))
            start += len(group)


def open_hashed_dataset(location: str) -> HashedDataset:
    """Open a data set and read its hashes.

    Raises UserError if it is not published, if it has no index that belongs to its manifest and its shards, or if its
    index has no hashes.
    """
    storage = open_storage(location)
    try:
        reader = open_index(storage)
        columns = _concat(reader.read_groups(["phash", "jpg_offset"]), ["phash", "jpg_offset"])
        hashes = _pack(columns["phash"].drop_null())
    except UnusableIndex as problem:
        raise UserError(
            f"{location}: the search for near-duplicates needs the index of a complete data set, but {problem}. "
            f"python -m labeler.index {location} writes it"
        ) from None
    if changed := find_changed_shard(storage, list(reader.shards.values())):
        raise UserError(
            f"{location}: {INDEX} does not belong to the shards: {changed}. Restore the shard; "
            f"python -m labeler.verify {location} checks all files"
        )
    rows = np.flatnonzero(columns["phash"].is_valid().to_numpy())
    has_images = columns["jpg_offset"].null_count < len(columns)
    if len(columns) and not len(hashes):
        raise UserError(f"{location}: {INDEX} has no perceptual hashes. {_advise(location, has_images)}")
    return HashedDataset(location, storage, reader, hashes, rows, len(columns), has_images)


def _concat(tables: Iterable[pa.Table], columns: list[str]) -> pa.Table:
    """Concatenate tables with these columns of an index, perhaps none."""
    return pa.concat_tables([pa.schema([SCHEMA.field(name) for name in columns]).empty_table(), *tables])


def _pack(hashes: pa.ChunkedArray) -> np.ndarray:
    try:
        return pack_hashes(hashes)
    except ValueError as error:
        raise UnusableIndex(f"{INDEX} is damaged: {error}") from None


def _advise(location: str, has_images: bool) -> str:
    if has_images:
        return f"python -m labeler.index {location} computes them from the stored images"
    return (
        f"The data set stores no images from which python -m labeler.index {location} could compute them: label the "
        "images again with this version"
    )
