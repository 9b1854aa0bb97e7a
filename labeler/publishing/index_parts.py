"""Parts of the index: the rows of one shard, which the worker that labels the shard stores in the folder `index`.

Publishing joins the parts to `index.parquet`, without reading the shards.
"""

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.manifest import ShardEntry, index_part_name
from common.parallel import in_order
from common.storage import Storage
from labeler.publishing.index_rows import DICTIONARY_COLUMNS, SCHEMA, ShardRows
from labeler.publishing.index_sums import SampleSums

PART_THREADS = 16  # parallel reads: a request to S3 takes longer than decoding a part
SHARD_SHA256, SUMS = b"shard_sha256", b"sums"  # keys of the Parquet metadata


class IndexPart(NamedTuple):
    """The rows of one shard, with the columns of `SCHEMA`, and the sums over its samples."""

    rows: pa.Table
    sums: SampleSums

    @property
    def lacks_hashes(self) -> bool:
        """Whether the part is of a version that did not hash images, though the shard has some."""
        hashes, images = (self.rows[column] for column in ("phash", "jpg_offset"))
        return hashes.null_count == len(hashes) and images.null_count < len(images)


def save_part(storage: Storage, rows: ShardRows, shard_sha256: str) -> None:
    """Store the rows of a shard. A part that exists is replaced: it is of the same shard, or damaged."""
    metadata = {SHARD_SHA256: shard_sha256.encode(), SUMS: rows.sums.to_json()}
    buffer = io.BytesIO()
    pq.write_table(
        rows.to_table().replace_schema_metadata(metadata),
        buffer,
        compression="zstd",
        use_dictionary=DICTIONARY_COLUMNS,
    )
    storage.replace(index_part_name(rows.shard), buffer.getvalue())


def read_parts(storage: Storage, shards: Sequence[ShardEntry]) -> Iterator[IndexPart | None]:
    """Yield the part of each shard, or None for a part that is missing, damaged, or was made from other bytes."""
    with ThreadPoolExecutor(PART_THREADS) as pool:
        yield from in_order(pool, lambda shard: read_part(storage, shard), shards, 2 * PART_THREADS)


def read_part(storage: Storage, shard: ShardEntry) -> IndexPart | None:
    """Return the part of a shard; None if it is missing or damaged, or if it was made from other bytes."""
    try:
        # without threads: see `labeler.planning.listing`
        with pq.ParquetFile(io.BytesIO(storage.read(index_part_name(shard.name)))) as file:
            rows = file.read(use_threads=False)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowException, ValueError):
        return None
    metadata = rows.schema.metadata or {}
    rows = rows.replace_schema_metadata()
    if metadata.get(SHARD_SHA256) != shard.sha256.encode() or rows.num_rows != shard.samples or rows.schema != SCHEMA:
        return None
    try:
        return IndexPart(rows, SampleSums.from_json(metadata.get(SUMS, b"")))
    except ValueError:
        return None
