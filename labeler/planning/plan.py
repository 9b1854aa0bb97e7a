"""The plan of a job: which image goes to which shard, fixed before labeling starts so that any run can resume it."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import UserError
from common.manifest import SCHEMA_VERSION, LabelConfig, Plan, Teacher, canonical_json, sha256, split_evenly
from common.sources.listing import IMAGE_EXTENSIONS, Listing, class_folder
from labeler.planning.listing import listing_checksum


def make_plan(
    listing: Listing, config: LabelConfig, teacher: Teacher, source: str, previous: Plan | None = None
) -> tuple[Plan, pa.Table]:
    """Shuffle the listed images with the seed and distribute them evenly over shards.

    Args:
        listing: the images to plan.
        config: the settings that determine the bytes of the shards.
        teacher: the identity of the teacher.
        source: the location of the images, as the user named it.
        previous: the last plan of the data set, if the new plan is a further generation.

    Returns:
        The plan and its listing, one row per image in the order of the keys.

    Raises:
        UserError: nothing is listed, or images outside of class folders would join a data set with classes.
    """
    table = listing.table
    if not table.num_rows:
        raise UserError(f"--input {source}: no images found{_describe_search(listing)}")
    classes, class_indices = _assign_classes(table["uri"], previous)
    table = table.append_column("class", class_indices)
    # numpy guarantees the stream of RandomState, so every version makes the same plan
    order = np.random.RandomState(config.seed).permutation(table.num_rows)[: config.limit]
    table = table.take(pa.array(order))
    shards = -(-table.num_rows // config.samples_per_shard)
    position: dict[str, Any] = {}
    if previous is not None:
        position = {
            "generation": previous.generation + 1,
            "parent": previous.fingerprint,
            "first_shard": previous.next_shard,
            "first_image": previous.next_image,
        }
    table = _assign_shards(table, shards, position.get("first_shard", 0), position.get("first_image", 0))
    checksum = listing_checksum(table)
    plan = Plan(
        **position,
        input=source,
        config=config,
        teacher=teacher,
        images=table.num_rows,
        bytes=pc.sum(table["size"]).as_py(),
        shards=shards,
        classes=classes,
        listing_sha256=checksum,
        fingerprint=compute_fingerprint(config, teacher, classes, checksum, position.get("parent")),
    )
    return plan, table


def compute_fingerprint(
    config: LabelConfig, teacher: Teacher, classes: list[str] | None, listing_sha256: str, parent: str | None
) -> str:
    """Return the SHA-256 of everything that determines the bytes of a plan's shards."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "config": config.for_fingerprint(),
        "teacher": teacher.id,
        "classes": classes,
        "listing": listing_sha256,
    }
    return sha256(canonical_json(content | ({"parent": parent} if parent else {})))


def make_keys(first: int, images: int) -> pa.Array:
    """Return the sample keys of a plan: numbers of nine digits, counted from `first` through all generations."""
    return pc.utf8_lpad(pc.cast(pa.array(np.arange(first, first + images)), pa.string()), 9, "0")


def _assign_shards(table: pa.Table, shards: int, first_shard: int, first_image: int) -> pa.Table:
    """Add the columns `key`, `shard` and `index` (the position in the shard)."""
    sizes = split_evenly(table.num_rows, shards)
    table = table.append_column("key", make_keys(first_image, table.num_rows))
    table = table.append_column("shard", pa.array(np.repeat(np.arange(shards) + first_shard, sizes), pa.int32()))
    table = table.append_column("index", pa.array(np.concatenate([np.arange(size) for size in sizes]), pa.int32()))
    return table.select(["key", "uri", "size", "class", "shard", "index", "container", "offset"])


def _assign_classes(uris: pa.ChunkedArray, previous: Plan | None) -> tuple[list[str] | None, pa.Array]:
    """Return the class names and the class index of each image; None and nulls if an image is in no class folder.

    The names of a first generation are sorted. A further generation appends its new names, sorted, to those of the
    previous one, so that no index changes.
    """
    no_classes = None, pa.nulls(len(uris), pa.int32())
    if previous is not None and previous.classes is None:
        return no_classes
    folders = pc.replace_substring_regex(uris, "[^/]*$", "").combine_chunks().dictionary_encode()
    folder_classes = [class_folder(folder.as_py() + "image") for folder in folders.dictionary]
    if None in folder_classes:
        if previous is None:
            return no_classes
        outside = pc.filter(uris, pc.equal(folders.indices, folder_classes.index(None)))[0]
        raise UserError(f"this data set has classes, but {outside} lies outside of the class folders; move it into one")
    known = previous.classes or [] if previous is not None else []
    classes = known + sorted(set(filter(None, folder_classes)) - set(known))
    index_of = {name: index for index, name in enumerate(classes)}
    folder_indices = np.array([index_of[name] for name in folder_classes if name is not None], np.int32)
    return classes, pa.array(folder_indices[folders.indices.to_numpy()])


def _describe_search(listing: Listing) -> str:
    extensions = ", ".join(sorted(IMAGE_EXTENSIONS))
    others = ", ".join(f"{count} {extension}" for extension, count in listing.skipped.most_common(5))
    return f" (looked for {extensions}{f'; found {others}' if others else ''})"
