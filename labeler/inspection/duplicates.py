"""Duplicate images of a data set: samples whose source files have the same checksum."""

import itertools
from typing import Any, NamedTuple

import numpy as np

from common.shards import SampleInfo
from common.storage import Storage
from labeler.inspection.reader import map_samples

MAX_DESCRIBED_GROUPS = 5
MAX_SOURCES_PER_GROUP = 5


class DuplicateGroup(NamedTuple):
    """Samples of the same image."""

    images: int
    first: list[int]  # positions in the rows, at most MAX_SOURCES_PER_GROUP


def count_duplicates(rows: np.ndarray) -> tuple[dict[str, int], list[DuplicateGroup]]:
    """Count the groups of equal images in `rows`, `ROW_DTYPE` [samples].

    Checksums are compared by their first 16 bytes: the probability that two of a billion different images agree in
    these is about 10^-21.

    Returns the counts, and the largest groups in descending order of size.
    """
    _, groups, sizes = np.unique(rows["digest"], return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(sizes > 1)
    members = np.flatnonzero(sizes[groups] > 1)
    members = members[np.argsort(groups[members], kind="stable")]  # by group, then in the order of the rows
    starts = np.cumsum(sizes[repeated]) - sizes[repeated]
    classes = rows["class"][members]
    across = np.zeros(len(repeated), bool)  # groups whose samples have different classes
    if len(repeated):
        across = np.minimum.reduceat(classes, starts) != np.maximum.reduceat(classes, starts)
    counts = {
        "groups": len(repeated),
        "surplus": int((sizes[repeated] - 1).sum()),
        "groups_across_classes": int(across.sum()),
        "images_across_classes": int(sizes[repeated][across].sum()),
    }
    largest = np.lexsort([members[starts], -sizes[repeated]])[:MAX_DESCRIBED_GROUPS]
    spans = [(int(starts[group]), int(sizes[repeated[group]])) for group in largest]
    return counts, [
        DuplicateGroup(size, members[start : start + min(size, MAX_SOURCES_PER_GROUP)].tolist())
        for start, size in spans
    ]


def describe_groups(
    storage: Storage, groups: list[DuplicateGroup], rows: np.ndarray, shards: list[str]
) -> list[dict[str, Any]]:
    """Describe each group by its checksum, its number of images, and the sources of its first samples.

    The sources are not in the rows, so the first samples are read again. `shards` holds the names of the shards; the
    column `shard` of the rows contains positions in it.
    """
    wanted = sorted(position for group in groups for position in group.first)
    infos: dict[tuple[int, str], SampleInfo] = {}  # by position of the shard, and key
    for index, positions in itertools.groupby(wanted, key=lambda position: int(rows["shard"][position])):
        keys = {_key(rows[position]) for position in positions}
        infos |= {(index, key): info for key, info in _read_infos(storage, shards[index], keys).items()}
    described = []
    for group in groups:
        locations = [(int(rows["shard"][position]), _key(rows[position])) for position in group.first]
        first = [infos[location] for location in locations if location in infos]
        checksum = first[0].source_sha256 if first else ""
        sources = [info.source for info in first]
        described.append({"source_sha256": checksum, "images": group.images, "sources": sources})
    return described


def _read_infos(storage: Storage, shard: str, keys: set[str]) -> dict[str, SampleInfo]:
    """Return the json members of some samples, by key. Reading stops after the last of them."""
    # problems were already reported when the rows were computed
    infos = map_samples(
        lambda sample: (sample.key, sample.info), storage, shard, on_problem=lambda problem: None, keys=keys
    )
    return dict(itertools.islice(infos, len(keys)))


def _key(row: np.void) -> str:
    return f"{row['key']:09d}"
