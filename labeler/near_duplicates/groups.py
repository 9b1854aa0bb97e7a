"""Pairs of images, and the groups of images that pairs connect."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

# positions of two images, the number of bits in which their hashes differ, and whether one of them is mirrored for that
PAIR_DTYPE = np.dtype([("first", "i4"), ("second", "i4"), ("distance", "u1"), ("mirrored", "?")])


class Group(NamedTuple):
    """Images that are connected by pairs."""

    images: list[int]  # positions, ascending
    pairs: np.ndarray  # PAIR_DTYPE, the most similar ones that connect all images: one less than there are images


def find_groups(pairs: np.ndarray, images: int) -> list[Group]:
    """Return the groups that `pairs`, `PAIR_DTYPE` [n], connect; largest first, then by their first image.

    `images` is the number of all images, whose positions the pairs contain.
    """
    thinned = thin_pairs(pairs, images)
    _, labels = connected_components(_to_graph(thinned, images), directed=False)
    thinned = thinned[np.argsort(labels[thinned["first"]], kind="stable")]
    borders = np.flatnonzero(np.diff(labels[thinned["first"]])) + 1
    groups = [
        Group(np.unique([connecting["first"], connecting["second"]]).tolist(), np.sort(connecting))
        for connecting in np.split(thinned, borders)
        if len(connecting)
    ]
    return sorted(groups, key=lambda group: (-len(group.images), group.images[0]))


def thin_pairs(pairs: np.ndarray, images: int) -> np.ndarray:
    """Return the most similar of `pairs` that connect the same images: a minimum spanning forest."""
    ranked = pairs[np.argsort(pairs["distance"], kind="stable")]
    forest = minimum_spanning_tree(_to_graph(ranked, images))
    return ranked[forest.data.astype(np.int64) - 1]


def _to_graph(pairs: np.ndarray, images: int) -> csr_array:
    """Return the graph of pairs, each weighted by its number from 1 on: an edge of weight 0 would not exist."""
    weights = np.arange(1, len(pairs) + 1, dtype=np.float64)
    return coo_array((weights, (pairs["first"], pairs["second"])), shape=(images, images)).tocsr()
