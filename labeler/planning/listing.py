"""The listing of a plan as a parquet file: one row per image in the order of the keys, one row group per shard.

Files are read with `use_threads=False`, and not with `pyarrow.parquet.read_table`, because Arrow's threads can abort
the process when it exits (arrow#34314).
"""

import hashlib
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError, describe_error
from common.manifest import Plan
from common.sources.listing import ImageRef
from common.storage import Storage

URIS_PER_BATCH = 100_000  # converted to Python strings at a time, to bound memory


class PlannedImage(NamedTuple):
    """An image of the input with the key and class index that the plan gives it."""

    key: str
    ref: ImageRef
    class_index: int | None


class ListingReader:
    """Reader of the planned images of single shards. The index of the parquet file is read once."""

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self.plan = plan
        self.file = pq.ParquetFile(storage.open(plan.listing))

    def shard(self, shard: int) -> list[PlannedImage]:
        """Return the images of one shard of the plan, in the order of their keys."""
        return to_planned_images(self.file.read_row_group(shard - self.plan.first_shard, use_threads=False))


def read_listing(storage: Storage, plan: Plan, columns: list[str] | None = None) -> pa.Table:
    """Return the whole listing of a plan, or only some columns. Raises UserError if it is missing or damaged."""
    try:
        with storage.open(plan.listing) as file:
            return pq.ParquetFile(file).read(columns=columns, use_threads=False)
    except FileNotFoundError:
        raise UserError(f"{storage.location}/{plan.listing} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{storage.location}/{plan.listing} is damaged: {describe_error(error)}") from None


def write_listing(table: pa.Table, sizes: Iterable[int], file: BinaryIO) -> None:
    """Write the listing of a plan; `sizes` are the numbers of images of its shards."""
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size))
            start += size


def to_planned_images(table: pa.Table) -> list[PlannedImage]:
    """Convert the rows of a listing to objects."""
    return [
        PlannedImage(row["key"], ImageRef(row["uri"], row["size"], row["container"], row["offset"]), row["class"])
        for row in table.to_pylist()
    ]


def listing_checksum(table: pa.Table) -> str:
    """Return the SHA-256 of the images in the order of their keys: their uris, sizes and offsets in tar files."""
    digest = hashlib.sha256()
    for batch in table.select(["uri"]).to_batches(URIS_PER_BATCH):
        digest.update("".join(f"{uri}\0" for uri in batch["uri"].to_pylist()).encode())
    for column in ("size", "offset"):
        digest.update(table[column].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()
