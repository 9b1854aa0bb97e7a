"""Groups are the connected images, and thinning keeps the most similar pairs that connect them."""

import numpy as np

from labeler.near_duplicates.groups import PAIR_DTYPE, find_groups, thin_pairs


def make_pairs(*pairs: tuple[int, int, int]) -> np.ndarray:
    return np.array([(*pair, False) for pair in pairs], PAIR_DTYPE)


def test_groups_are_the_connected_images_largest_first() -> None:
    pairs = make_pairs((7, 8, 3), (1, 4, 9), (2, 9, 0), (4, 9, 20), (0, 3, 5))
    groups = find_groups(pairs, 10)
    assert [group.images for group in groups] == [[1, 2, 4, 9], [0, 3], [7, 8]]
    assert [group.pairs.tolist() for group in groups] == [
        [(1, 4, 9, False), (2, 9, 0, False), (4, 9, 20, False)],
        [(0, 3, 5, False)],
        [(7, 8, 3, False)],
    ]
    assert find_groups(pairs[:0], 10) == []


def test_thinning_keeps_the_most_similar_pairs() -> None:
    pairs = make_pairs((0, 1, 30), (0, 2, 0), (1, 2, 12), (3, 4, 7), (1, 3, 40), (2, 4, 41))
    thinned = sorted(thin_pairs(pairs, 6).tolist())
    assert thinned == [(0, 2, 0, False), (1, 2, 12, False), (1, 3, 40, False), (3, 4, 7, False)]


def test_thinned_pairs_connect_the_same_images() -> None:
    generator = np.random.default_rng(0)
    ends = np.unique(np.sort(generator.integers(0, 60, (90, 2)), axis=1), axis=0)
    pairs = make_pairs(*((i, j, int(generator.integers(0, 50))) for i, j in ends.tolist() if i != j))
    groups = find_groups(pairs, 60)
    assert [group.images for group in find_groups(thin_pairs(pairs, 60), 60)] == [group.images for group in groups]
    for group in groups:
        assert len(group.pairs) == len(group.images) - 1
