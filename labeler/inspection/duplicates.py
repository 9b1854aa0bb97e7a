"""Duplicate images of a data set: samples whose source files have the same checksum."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from common.storage import Storage
from labeler.inspection.reader import map_samples

MAX_DESCRIBED_GROUPS = 5
MAX_SOURCES_PER_GROUP = 5


class DuplicateGroup(NamedTuple):
    """Samples of the same image."""

    images: int
    first: list[int]  # positions in the rows, at most MAX_SOURCES_PER_GROUP


class Origin(NamedTuple):
    """Where the image of a sample comes from."""

    source: str
    source_sha256: str


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


def describe_groups(groups: list[DuplicateGroup], origins: Mapping[int, Origin]) -> list[dict[str, Any]]:
    """Describe each group by its checksum, its number of images, and the sources of its first samples.

    `origins` holds the origins of these samples by position in the rows, except for those that could not be read.
    """
    described = []
    for group in groups:
        first = [origins[position] for position in group.first if position in origins]
        checksum = first[0].source_sha256 if first else ""
        sources = [origin.source for origin in first]
        described.append({"source_sha256": checksum, "images": group.images, "sources": sources})
    return described


def read_origins(storage: Storage, positions: list[int], rows: np.ndarray, shards: list[str]) -> dict[int, Origin]:
    """Read the origins of the samples at some positions of `rows` from their shards, because rows do not hold them.

    `shards` holds the names of the shards; the column `shard` of the rows contains positions in it.
    """
    origins: dict[int, Origin] = {}
    for index, group in itertools.groupby(sorted(positions), key=lambda position: int(rows["shard"][position])):
        position_of = {_key(rows[position]): position for position in group}
        # problems were already reported when the rows were computed
        samples = map_samples(
            lambda sample: (sample.key, Origin(sample.info.source, sample.info.source_sha256)),
            storage,
            shards[index],
            on_problem=lambda problem: None,
            keys=position_of,
        )
        # reading stops after the last of them
        origins |= {position_of[key]: origin for key, origin in itertools.islice(samples, len(position_of))}
    return origins


def _key(row: np.void) -> str:
    return f"{row['key']:09d}"
