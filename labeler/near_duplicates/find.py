"""The search for near-duplicate images, from data sets to groups of their samples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from labeler.near_duplicates.confirm import confirm_pairs
from labeler.near_duplicates.dataset import HashedDataset
from labeler.near_duplicates.groups import find_groups
from labeler.near_duplicates.samples import MatchedSample, read_samples
from labeler.near_duplicates.search import Limits, find_similar_hashes

# Of 53 million pairs of different photographs, one is within 66 of 256 bits and 600 are within 88; the number of such
# pairs doubles every 2.7 bits. Copies that are cropped by 2.5 % on each side reach 90 bits. The maximum distance is the
# first of these numbers for many pairs and the second for few. PDQ's authors recommend 31 bits.
MAX_DISTANCES_WITH_PIXELS, MAX_DISTANCES_OF_HASHES_ALONE = (80, 90), (31, 60)
FEW_PAIRS, BITS_PER_DOUBLING = 5e7, 2.7
# Limits of the first word and of its lowest frequencies. The strict ones reject 99.8 % of the pairs of different
# photographs in this step, and 0.3 % of the cropped copies.
PAIRS_FOR_STRICT_LIMITS, STRICT_LIMITS, TOLERANT_LIMITS = 1e9, (20, 5), (26, 8)


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
    limits = choose_limits(with_pixels, _count_pairs(dataset, against))
    others = None if against is None else against.hashes
    candidates = find_similar_hashes(dataset.hashes, others, limits, threads)
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
    return NearDuplicates(datasets, limits.all, len(candidates), with_pixels, matched)


def choose_limits(with_pixels: bool, pairs: float) -> Limits:
    """Return the limits for a number of pairs of images: the more pairs there are, the stricter.

    `with_pixels` states whether pairs with similar hashes are confirmed by pixels.
    """
    lowest, highest = MAX_DISTANCES_WITH_PIXELS if with_pixels else MAX_DISTANCES_OF_HASHES_ALONE
    reduction = BITS_PER_DOUBLING * math.log2(max(pairs, FEW_PAIRS) / FEW_PAIRS)
    of_parts = TOLERANT_LIMITS if pairs < PAIRS_FOR_STRICT_LIMITS else STRICT_LIMITS
    return Limits(round(max(highest - reduction, lowest)), *of_parts)


def _count_pairs(dataset: HashedDataset, against: HashedDataset | None) -> float:
    images = len(dataset.hashes)
    return images * (images - 1) / 2 if against is None else images * len(against.hashes)
