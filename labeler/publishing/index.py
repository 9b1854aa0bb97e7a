"""The index of a published data set: writing it from its parts, and reading it."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import describe_error
from common.manifest import INDEX, MANIFEST, Manifest, ShardEntry, sha256
from common.storage import ReadableStorage, Storage
from labeler.publishing.index_parts import SUMS, read_parts
from labeler.publishing.index_rows import DICTIONARY_COLUMNS, SCHEMA
from labeler.publishing.index_sums import SampleSums

MANIFEST_SHA256 = b"manifest_sha256"  # key of the Parquet metadata
ROWS_PER_GROUP = 50_000  # at least, except for the last group; a group holds whole shards


class UnusableIndex(Exception):
    """The index of a data set is missing, damaged, or does not belong to the manifest."""


def write_index(storage: Storage, shards: Sequence[ShardEntry], manifest_sha256: str) -> list[ShardEntry]:
    """Write the index of the data set whose manifest has these shards and this checksum, from the shards' parts.

    The memory needed does not depend on the number of samples. Returns the shards that have no sound part, as those of
    earlier versions, which `labeler.index` computes; if there are any, nothing is written.
    """
    group, sums, missing = list[pa.Table](), SampleSums(), list[ShardEntry]()
    schema = SCHEMA.with_metadata({MANIFEST_SHA256: manifest_sha256.encode()})
    with (
        storage.scratch() as file,
        pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=DICTIONARY_COLUMNS) as writer,
    ):
        for shard, part in zip(shards, read_parts(storage, shards), strict=True):
            if part is None:
                missing.append(shard)
            if part is None or missing:
                continue
            sums.merge(part.sums)
            group.append(part.rows)
            if sum(map(len, group)) >= ROWS_PER_GROUP:
                _write_group(writer, group)
                group = []
        if group:
            _write_group(writer, group)
        writer.add_key_value_metadata({SUMS: sums.to_json()})
        writer.close()
        if not missing:
            storage.replace_file(INDEX, file)
    return missing


class DatasetIndex:
    """Reader of the index that belongs to a manifest. The rows are in the order of the manifest's shards."""

    def __init__(self, file: pq.ParquetFile, manifest: Manifest) -> None:
        """Check the columns and the metadata of the file. Raises UnusableIndex."""
        self.file = file
        self.shards = {shard.name: shard for shard in manifest.shards}
        metadata = file.metadata
        if missing := [field.name for field in SCHEMA if field not in list(file.schema_arrow)]:
            raise UnusableIndex(f"{INDEX} is not an index of samples: it lacks the columns {', '.join(missing)}")
        if metadata.num_rows != manifest.written:
            raise UnusableIndex(
                f"{INDEX} has {metadata.num_rows:,} rows, {MANIFEST} counts {manifest.written:,} samples"
            )
        try:
            self.sums = SampleSums.from_json(metadata.metadata.get(SUMS, b""))
        except ValueError as error:
            raise UnusableIndex(f"{INDEX} is damaged: {describe_error(error)}") from None
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._group_starts = np.cumsum([0, *sizes])
        samples = [shard.samples for shard in manifest.shards]
        self._shard_starts = dict(zip(self.shards, np.cumsum([0, *samples[:-1]]).tolist(), strict=True))

    def read_groups(self, columns: list[str]) -> Iterator[pa.Table]:
        """Yield some columns of all rows, group by group. Raises UnusableIndex if they are damaged."""
        for group in range(self.file.num_row_groups):
            yield self._read([group], columns)

    def read_shard(self, shard: str) -> pa.Table:
        """Read the rows of a shard. Raises UnusableIndex if they are damaged."""
        start = self._shard_starts[shard]
        return self.read_rows(start, start + self.shards[shard].samples)

    def read_rows(self, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
        """Read the rows from `start` to before `stop`, all columns or some.

        Raises UnusableIndex if they are damaged.
        """
        first = int(np.searchsorted(self._group_starts, start, "right")) - 1
        last = int(np.searchsorted(self._group_starts, stop, "left"))
        return self._read(list(range(first, last)), columns).slice(start - self._group_starts[first], stop - start)

    def _read(self, groups: list[int], columns: list[str] | None) -> pa.Table:
        try:
            # without threads: see `labeler.planning.listing`
            return self.file.read_row_groups(groups, columns, use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UnusableIndex(f"{INDEX} is damaged: {describe_error(error)}") from None


def open_index(storage: ReadableStorage) -> DatasetIndex:
    """Open the index of a published data set.

    Raises UnusableIndex, whose message says why, if it is missing or damaged, or belongs to another manifest.
    """
    try:
        content = storage.read(MANIFEST)
        manifest = Manifest.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UnusableIndex(f"there is no sound {MANIFEST} that it belongs to") from None
    try:
        file = pq.ParquetFile(storage.open(INDEX))
    except FileNotFoundError:
        raise UnusableIndex(f"{INDEX} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnusableIndex(f"{INDEX} is damaged, or not a Parquet file: {describe_error(error)}") from None
    if (file.metadata.metadata or {}).get(MANIFEST_SHA256) != sha256(content).encode():
        raise UnusableIndex(f"{INDEX} does not belong to {MANIFEST}")
    return DatasetIndex(file, manifest)


def find_changed_shard(storage: Storage, shards: Sequence[ShardEntry]) -> str | None:
    """Return a sentence about the first shard whose size is not the one in the manifest; None if all have theirs."""
    sizes = storage.list_sizes()
    for shard in shards:
        if shard.name not in sizes:
            return f"{shard.name} is missing"
        if sizes[shard.name] != shard.bytes:
            return f"{shard.name} has {sizes[shard.name]:,} bytes, {MANIFEST} says {shard.bytes:,}"
    return None


def _write_group(writer: pq.ParquetWriter, shards: list[pa.Table]) -> None:
    rows = pa.concat_tables(shards)
    writer.write_table(rows, row_group_size=max(len(rows), 1))
