"""The plan: which image goes to which shard, fixed before the work starts, so that any run can go on with it."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import UserError, told
from common.manifest import (
    LISTING,
    PLAN,
    SCHEMA_VERSION,
    Plan,
    Teacher,
    canonical_json,
    even_sizes,
    sha256,
)
from common.sources import IMAGE_EXTENSIONS, ImageRef, Listing, class_folder
from common.storage import Storage


class PlannedImage(NamedTuple):
    """An image and its place in the plan."""

    key: str
    ref: ImageRef
    class_index: int | None


def make_plan(listing: Listing, config: dict[str, Any], teacher: Teacher, source: str) -> tuple[Plan, pa.Table]:
    """Shuffle the listed images with the seed and deal them evenly to shards.

    Returns the plan and its table, one row an image in the order of the keys. Raises UserError where nothing is listed.
    """
    table = listing.table
    if not table.num_rows:
        raise UserError(f"--input {source}: no images found{_hint(listing)}")
    names, indices = _classes(table["uri"].to_pylist())
    table = table.append_column("class", pa.array(indices, pa.int32()))
    # RandomState's streams are frozen by numpy's policy: the same plan with any version
    order = np.random.RandomState(config["seed"]).permutation(table.num_rows)[: config["limit"]]
    table = table.take(pa.array(order))
    shards = -(-table.num_rows // config["samples_per_shard"])
    sizes = even_sizes(table.num_rows, shards)
    table = table.append_column("key", pa.array(f"{key:09d}" for key in range(table.num_rows)))
    table = table.append_column("shard", pa.array(np.repeat(np.arange(shards), sizes), pa.int32()))
    table = table.append_column("index", pa.array(np.concatenate([np.arange(size) for size in sizes]), pa.int32()))
    table = table.select(["key", "uri", "size", "class", "shard", "index", "container", "offset"])
    checksum = listing_checksum(table)
    plan = Plan(
        input=source,
        config=config,
        teacher=teacher,
        images=table.num_rows,
        bytes=int(np.sum(table["size"].to_numpy())),
        shards=shards,
        classes=names,
        listing_sha256=checksum,
        fingerprint=fingerprint(config, teacher, names, checksum),
    )
    return plan, table


def fingerprint(config: dict[str, Any], teacher: Teacher, classes: list[str] | None, listing_sha256: str) -> str:
    """Checksum over all that decides the bytes of the shards."""
    decides = {
        "schema_version": SCHEMA_VERSION,
        "config": config,
        "teacher": teacher.id,
        "classes": classes,
        "listing": listing_sha256,
    }
    return sha256(canonical_json(decides))


def listing_checksum(table: pa.Table) -> str:
    """Checksum over the images in the order of their keys: uri, size, and where in a tar they begin."""
    digest = hashlib.sha256()
    for batch in table["uri"].chunks:
        digest.update("".join(f"{uri}\0" for uri in batch.to_pylist()).encode())
    for column in ("size", "offset"):
        digest.update(table[column].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def keep_plan(storage: Storage, plan: Plan, table: pa.Table) -> None:
    """Write the plan of a new data set, or check that the one there is the same. Raises UserError on a difference."""
    if not storage.put(PLAN, plan.to_json()):
        kept = read_plan(storage)
        if kept.fingerprint != plan.fingerprint:
            raise UserError(_difference(storage, kept, plan, table))
    if not storage.exists(LISTING):
        with storage.scratch() as file:
            _write_listing(table, plan.shard_sizes(), file)
            storage.put_file(LISTING, file)


def read_plan(storage: Storage) -> Plan:
    """The plan of a data set. Raises UserError where there is none or it is damaged."""
    try:
        return Plan.model_validate_json(storage.read(PLAN))
    except FileNotFoundError:
        raise UserError(f"{storage.location}: expected the folder of a data set, found no {PLAN} in it") from None
    except ValueError as error:
        raise UserError(f"{storage.location}/{PLAN} is damaged or of another version: {told(error)}") from None


def read_listing(storage: Storage) -> pa.Table:
    """The whole listing, in the order of the keys."""
    with storage.open(LISTING) as file:
        # without threads: those that Arrow starts for a Python file can abort the process when it exits (arrow#34314)
        return pq.read_table(file, use_threads=False)


def read_shard(storage: Storage, shard: int) -> list[PlannedImage]:
    """The images of one shard: a row group of the listing, so that a worker reads no more than it needs."""
    with storage.open(LISTING) as file:
        return planned_images(pq.ParquetFile(file).read_row_group(shard, use_threads=False))


def planned_images(table: pa.Table) -> list[PlannedImage]:
    """Rows of a listing as objects."""
    return [
        PlannedImage(row["key"], ImageRef(row["uri"], row["size"], row["container"], row["offset"]), row["class"])
        for row in table.to_pylist()
    ]


def _write_listing(table: pa.Table, sizes: Iterable[int], file: BinaryIO) -> None:
    with pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size))
            start += size


def _classes(uris: list[str]) -> tuple[list[str] | None, list[int | None]]:
    """Class names, sorted, and each image's index; none at all where an image lies outside of the class folders."""
    folders = [class_folder(uri) for uri in uris]
    if None in folders:
        return None, [None] * len(folders)
    names = sorted(set(filter(None, folders)))
    index = {name: position for position, name in enumerate(names)}
    return names, [index[folder] for folder in folders if folder is not None]


def _hint(listing: Listing) -> str:
    looked_for = ", ".join(sorted(IMAGE_EXTENSIONS))
    others = ", ".join(f"{count} {extension}" for extension, count in listing.skipped.most_common(5))
    return f" (looked for {looked_for}{f'; found {others}' if others else ''})"


def _difference(storage: Storage, kept: Plan, new: Plan, table: pa.Table) -> str:
    """What the user changed since the data set was planned, and what can be done."""
    changes = [
        f"{name} was {kept.config.get(name)!r}, is {new.config.get(name)!r}"
        for name in sorted(kept.config.keys() | new.config.keys())
        if kept.config.get(name) != new.config.get(name)
    ]
    if kept.teacher != new.teacher:
        changes.append(f"the teacher was {kept.teacher.id}, is {new.teacher.id}")
    if not changes and kept.classes != new.classes:
        names = set(kept.classes or []) ^ set(new.classes or [])
        changes.append(f"the input's class folders have changed: {', '.join(sorted(names)[:5])}")
    if not changes and storage.exists(LISTING):
        changes.append(_listing_difference(read_listing(storage), table))
    return (
        f"this output was planned differently: {'; '.join(changes) or 'the input has changed'}. "
        "Give the same settings and input as before to go on with it, or another --output"
    )


def _listing_difference(kept: pa.Table, new: pa.Table) -> str:
    before = Counter(zip(kept["uri"].to_pylist(), kept["size"].to_pylist(), strict=True))
    after = Counter(zip(new["uri"].to_pylist(), new["size"].to_pylist(), strict=True))
    gone, added = sorted((before - after).elements()), sorted((after - before).elements())
    changed = {uri for uri, _ in gone} & {uri for uri, _ in added}
    parts = []
    for label, uris in (
        ("gone", [uri for uri, _ in gone if uri not in changed]),
        ("new", [uri for uri, _ in added if uri not in changed]),
        ("of another size", sorted(changed)),
    ):
        if uris:
            parts.append(f"{len(uris)} {label} (first: {uris[0]})")
    return f"the input has changed: images {', '.join(parts) or 'at other places in their tars'}"
