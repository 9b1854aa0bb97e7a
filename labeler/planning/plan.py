"""The plan: which image goes to which shard, fixed before the work starts, so that any run can go on with it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import UserError
from common.manifest import SCHEMA_VERSION, LabelConfig, Plan, Teacher, canonical_json, sha256, split_evenly
from common.sources.listing import IMAGE_EXTENSIONS, Listing, class_folder
from labeler.planning.listing import listing_checksum


def make_plan(
    listing: Listing, config: LabelConfig, teacher: Teacher, source: str, before: Plan | None = None
) -> tuple[Plan, pa.Table]:
    """Shuffle the listed images with the seed and deal them evenly to shards.

    With `before`, the plan is the generation after that one. Returns the plan and its table, one row an image in the
    order of the keys. Raises UserError where nothing is listed, or images without a class are to join such with one.
    """
    table = listing.table
    if not table.num_rows:
        raise UserError(f"--input {source}: no images found{_hint(listing)}")
    names, indices = _classes(table["uri"], before)
    table = table.append_column("class", indices)
    # RandomState's streams are frozen by numpy's policy: the same plan with any version
    order = np.random.RandomState(config.seed).permutation(table.num_rows)[: config.limit]
    table = table.take(pa.array(order))
    shards = -(-table.num_rows // config.samples_per_shard)
    place: dict[str, Any] = {}
    if before is not None:
        place = {
            "generation": before.generation + 1,
            "parent": before.fingerprint,
            "first_shard": before.next_shard,
            "first_image": before.next_image,
        }
    table = _dealt(table, shards, place.get("first_shard", 0), place.get("first_image", 0))
    checksum = listing_checksum(table)
    plan = Plan(
        **place,
        input=source,
        config=config,
        teacher=teacher,
        images=table.num_rows,
        bytes=pc.sum(table["size"]).as_py(),
        shards=shards,
        classes=names,
        listing_sha256=checksum,
        fingerprint=fingerprint(config, teacher, names, checksum, place.get("parent")),
    )
    return plan, table


def fingerprint(
    config: LabelConfig, teacher: Teacher, classes: list[str] | None, listing_sha256: str, parent: str | None
) -> str:
    """Checksum over all that decides the bytes of the shards."""
    decides = {
        "schema_version": SCHEMA_VERSION,
        "config": config.model_dump(mode="json"),
        "teacher": teacher.id,
        "classes": classes,
        "listing": listing_sha256,
    }
    return sha256(canonical_json(decides | ({"parent": parent} if parent else {})))


def planned_keys(first: int, images: int) -> pa.Array:
    """The keys of a plan's images: nine digits, counted through all generations."""
    return pc.utf8_lpad(pc.cast(pa.array(np.arange(first, first + images)), pa.string()), 9, "0")


def _dealt(table: pa.Table, shards: int, first_shard: int, first_image: int) -> pa.Table:
    """Give every image its key, its shard and its place in it."""
    sizes = split_evenly(table.num_rows, shards)
    table = table.append_column("key", planned_keys(first_image, table.num_rows))
    table = table.append_column("shard", pa.array(np.repeat(np.arange(shards) + first_shard, sizes), pa.int32()))
    table = table.append_column("index", pa.array(np.concatenate([np.arange(size) for size in sizes]), pa.int32()))
    return table.select(["key", "uri", "size", "class", "shard", "index", "container", "offset"])


def _classes(uris: pa.ChunkedArray, before: Plan | None) -> tuple[list[str] | None, pa.Array]:
    """Class names and each image's index; none at all where an image lies outside of the class folders.

    The names of a first generation are sorted; new ones follow those of the generation before.
    """
    none = None, pa.nulls(len(uris), pa.int32())
    if before is not None and before.classes is None:
        return none
    folders = pc.replace_substring_regex(uris, "[^/]*$", "").combine_chunks().dictionary_encode()
    named = [class_folder(folder.as_py() + "image") for folder in folders.dictionary]
    if None in named:
        if before is None:
            return none
        outside = pc.filter(uris, pc.equal(folders.indices, named.index(None)))[0]
        raise UserError(f"this data set has classes, but {outside} lies outside of the class folders; move it into one")
    known = before.classes or [] if before is not None else []
    names = known + sorted(set(filter(None, named)) - set(known))
    index = {name: position for position, name in enumerate(names)}
    positions = np.array([index[name] for name in named if name is not None], np.int32)
    return names, pa.array(positions[folders.indices.to_numpy()])


def _hint(listing: Listing) -> str:
    looked_for = ", ".join(sorted(IMAGE_EXTENSIONS))
    others = ", ".join(f"{count} {extension}" for extension, count in listing.skipped.most_common(5))
    return f" (looked for {looked_for}{f'; found {others}' if others else ''})"
