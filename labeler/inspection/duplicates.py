"""Images that are in a data set more than once: samples whose sources have the same checksum."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from common.shards import SampleInfo
from common.storage import Storage
from labeler.inspection.survey import CommittedShards, read_each

LARGEST = 5  # groups that are described, and sources of each


class Group(NamedTuple):
    """Samples of the same image, as positions in the rows."""

    images: int
    first: list[int]  # at most LARGEST


def count_duplicates(rows: np.ndarray) -> tuple[dict[str, int], list[Group]]:
    """Count the groups of equal images among the data set's rows (`tally.ROW`), and find the largest.

    Checksums are compared by their first 16 bytes: among a billion images two would be equal once in 10^20 data sets.
    """
    _, groups, sizes = np.unique(rows["digest"], return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(sizes > 1)
    members = np.flatnonzero(sizes[groups] > 1)
    members = members[np.argsort(groups[members], kind="stable")]  # group by group, in the data set's order
    starts = np.cumsum(sizes[repeated]) - sizes[repeated]
    classes = rows["class"][members]
    across = np.zeros(len(repeated), bool)
    if len(repeated):
        across = np.minimum.reduceat(classes, starts) != np.maximum.reduceat(classes, starts)
    counts = {
        "groups": len(repeated),
        "surplus": int((sizes[repeated] - 1).sum()),
        "groups_across_classes": int(across.sum()),
        "images_across_classes": int(sizes[repeated][across].sum()),
    }
    largest = np.lexsort([members[starts], -sizes[repeated]])[:LARGEST]
    spans = [(int(starts[group]), int(sizes[repeated[group]])) for group in largest]
    return counts, [Group(size, members[start : start + min(size, LARGEST)].tolist()) for start, size in spans]


def describe_groups(storage: Storage, groups: list[Group], rows: np.ndarray, shards: list[str]) -> list[dict[str, Any]]:
    """Read the first samples of these groups again: checksum, number of images, and the sources of the first.

    `shards` are the names of the shards that the rows count through.
    """
    wanted = sorted(position for group in groups for position in group.first)
    origins: dict[tuple[int, str], SampleInfo] = {}
    for index, positions in itertools.groupby(wanted, key=lambda position: int(rows["shard"][position])):
        infos = _infos(storage, shards[index], {_key(rows[position]) for position in positions})
        origins.update({(index, key): info for key, info in infos})
    described = []
    for group in groups:
        places = [(int(rows["shard"][position]), _key(rows[position])) for position in group.first]
        found = [origins[place] for place in places if place in origins]
        checksum = found[0].source_sha256 if found else ""
        sources = [info.source for info in found]
        described.append({"source_sha256": checksum, "images": group.images, "sources": sources})
    return described


def _infos(storage: Storage, shard: str, keys: set[str]) -> Iterator[tuple[str, SampleInfo]]:
    """What a shard's json files say of these samples; it is read no further than to the last of them."""
    unnoted = CommittedShards(shards={shard: 0})  # what is damaged has been told before
    found = read_each(storage, shard, unnoted, lambda sample: (sample.key, sample.info), keys)
    return itertools.islice(found, len(keys))


def _key(row: np.void) -> str:
    return f"{row['key']:09d}"
