"""The listing of a plan as a parquet file: one row an image in the order of the keys, one row group a shard.

It is read without threads and not by `read_table`, whose threads can abort the process when it exits (arrow#34314).
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

SLICE = 100_000  # images turned into Python objects at once


class PlannedImage(NamedTuple):
    """An image and its place in the plan."""

    key: str
    ref: ImageRef
    class_index: int | None


class ListingReader:
    """Reads the images of shard after shard: the file's own index is read once."""

    def __init__(self, storage: Storage, plan: Plan) -> None:
        self.plan = plan
        self.file = pq.ParquetFile(storage.open(plan.listing))

    def shard(self, shard: int) -> list[PlannedImage]:
        """The images of one shard of this plan."""
        return planned_images(self.file.read_row_group(shard - self.plan.first_shard, use_threads=False))


def read_listing(storage: Storage, plan: Plan, columns: list[str] | None = None) -> pa.Table:
    """The whole listing of a plan, or only some columns. Raises UserError where it is missing or damaged."""
    try:
        with storage.open(plan.listing) as file:
            return pq.ParquetFile(file).read(columns=columns, use_threads=False)
    except FileNotFoundError:
        raise UserError(f"{storage.location}/{plan.listing} is missing") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{storage.location}/{plan.listing} is damaged: {describe_error(error)}") from None


def write_listing(table: pa.Table, sizes: Iterable[int], file: BinaryIO) -> None:
    """Write the listing of a plan whose shards have these sizes."""
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size))
            start += size


def planned_images(table: pa.Table) -> list[PlannedImage]:
    """Rows of a listing as objects."""
    return [
        PlannedImage(row["key"], ImageRef(row["uri"], row["size"], row["container"], row["offset"]), row["class"])
        for row in table.to_pylist()
    ]


def listing_checksum(table: pa.Table) -> str:
    """Checksum over the images in the order of their keys: uri, size, and where in a tar they begin."""
    digest = hashlib.sha256()
    for batch in table.select(["uri"]).to_batches(SLICE):
        digest.update("".join(f"{uri}\0" for uri in batch["uri"].to_pylist()).encode())
    for column in ("size", "offset"):
        digest.update(table[column].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()
