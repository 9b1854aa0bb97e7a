"""The search for near-duplicate images, from data sets to groups of their samples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from labeler.near_duplicates.confirm import confirm_pairs
from labeler.near_duplicates.dataset import HashedDataset
from labeler.near_duplicates.groups import find_groups
from labeler.near_duplicates.samples import MatchedSample, read_samples
from labeler.near_duplicates.search import find_similar_hashes

MAX_DISTANCE = 80  # bits, if the pixels are compared as well
# Without pixels. Of 53 million pairs of photographs, a pair of different ones came within 66 bits, and the number of
# such pairs halves every 2.7 bits. PDQ's authors recommend 31 bits.
MAX_DISTANCES_OF_HASHES_ALONE = (31, 60)
PAIRS_AT_HIGHEST, BITS_PER_DOUBLING = 5e7, 2.7


class MatchedPair(NamedTuple):
    """Two near-duplicates: their samples, the number of bits in which their hashes differ, and the mirroring."""

    first: MatchedSample
    second: MatchedSample
    distance: int
    mirrored: bool


class MatchedGroup(NamedTuple):
    """Near-duplicates, and the most similar pairs that connect them: one less than there are samples."""

    samples: list[MatchedSample]
    pairs: list[MatchedPair]


class NearDuplicates(NamedTuple):
    """Result of a search: the groups, largest first, and how they were found."""

    datasets: Sequence[HashedDataset]
    max_distance: int  # bits
    candidates: int  # pairs of similar hashes
    confirmed_by_pixels: bool
    groups: list[MatchedGroup]


def find_near_duplicates(
    dataset: HashedDataset, against: HashedDataset | None, threads: int | None = None
) -> NearDuplicates:
    """Find groups of near-duplicates in a data set, or those of its images and images of another data set.

    In the latter case each group has images of both. If all images are stored, pairs with similar hashes are confirmed
    by pixels. Raises UserError if a shard has changed since it was indexed.
    """
    datasets = [dataset] if against is None else [dataset, against]
    with_pixels = all(each.has_images for each in datasets)
    max_distance = MAX_DISTANCE if with_pixels else choose_max_distance(*(len(each.hashes) for each in datasets))
    others = None if against is None else against.hashes
    candidates = find_similar_hashes(dataset.hashes, others, max_distance, threads)
    pairs = confirm_pairs(candidates, datasets, threads) if with_pixels else candidates
    groups = find_groups(pairs, sum(len(each.hashes) for each in datasets))
    positions = np.unique(np.array([image for group in groups for image in group.images], np.int64))
    samples = dict(zip(positions.tolist(), read_samples(positions, datasets), strict=True))
    matched = [
        MatchedGroup(
            [samples[image] for image in group.images],
            [
                MatchedPair(samples[first], samples[second], distance, mirrored)
                for first, second, distance, mirrored in group.pairs.tolist()
            ],
        )
        for group in groups
    ]
    return NearDuplicates(datasets, max_distance, len(candidates), with_pixels, matched)


def choose_max_distance(images: int, others: int | None = None) -> int:
    """Return the maximum distance of near-duplicates without pixels: smaller, the more pairs there are.

    Args:
        images: number of images that are compared among each other or, with `others`, with another data set.
        others: number of images of the other data set.
    """
    pairs = images * (images - 1) / 2 if others is None else images * others
    lowest, highest = MAX_DISTANCES_OF_HASHES_ALONE
    excess = math.log2(max(pairs, 1) / PAIRS_AT_HIGHEST)
    return round(min(max(highest - BITS_PER_DOUBLING * excess, lowest), highest))
