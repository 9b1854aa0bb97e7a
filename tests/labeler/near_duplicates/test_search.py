"""The search finds the pairs that comparing the hashes one by one finds, and only these."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from labeler.near_duplicates import search
from labeler.near_duplicates.search import Limits, find_similar_hashes

LIMITS = Limits(70, 20, 5)


def make_hashes(images: int, copies: int, seed: int = 0) -> np.ndarray:
    """Return packed hashes of unrelated images, and of copies that differ in up to 100 bits; some are mirrored."""
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2, (images, 256), dtype=np.uint8)
    chosen = bits[generator.integers(0, images, copies)]
    chosen ^= generator.random(chosen.shape) < generator.uniform(0, 0.4, (copies, 1))
    chosen[::3, 128:] ^= 1
    bits = np.concatenate([bits, chosen])
    return np.packbits(bits[generator.permutation(len(bits))], axis=1).view(np.uint64)


def search_one_by_one(hashes: np.ndarray, others: np.ndarray | None) -> set[tuple[int, int, int, bool]]:
    bits, columns = (
        np.unpackbits(words.view(np.uint8), axis=1).astype(float)
        for words in (hashes, hashes if others is None else others)
    )
    lowest, first, even, odd = (
        np.rint(cdist(bits[:, part], columns[:, part], "cityblock")).astype(int)
        for part in (slice(14), slice(64), slice(128), slice(128, 256))
    )
    distances = even + np.minimum(odd, 128 - odd)
    offset = 0 if others is None else len(hashes)
    return {
        (int(i), int(j) + offset, int(distances[i, j]), bool(odd[i, j] > 64))
        for i, j in np.argwhere((distances <= LIMITS.all) & (first <= LIMITS.first_word) & (lowest <= LIMITS.lowest))
        if others is not None or i < j
    }


@pytest.mark.parametrize("block", [(16, 8192, 256), (3, 7, 5), (100, 64, 1000)])
def test_all_similar_pairs_are_found(block: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("BLOCK_ROWS", "BLOCK_COLUMNS", "ROWS_PER_TASK"), block, strict=True):
        monkeypatch.setattr(search, name, value)
    hashes, others = make_hashes(150, 100), make_hashes(80, 40)
    for second in (None, others):
        expected = search_one_by_one(hashes, second)
        pairs = find_similar_hashes(hashes, second, LIMITS, threads=2).tolist()
        assert len(pairs) == len(expected)
        assert set(pairs) == expected
        assert {mirrored for *_, mirrored in expected} == {True, False}


def test_data_sets_without_hashes_have_no_pairs() -> None:
    none = np.empty((0, 4), np.uint64)
    for hashes, others in ((none, None), (none, make_hashes(3, 1)), (make_hashes(3, 1), none)):
        assert len(find_similar_hashes(hashes, others, LIMITS)) == 0


def test_many_equal_images_need_little_memory_and_stay_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_PAIRS", 100)
    monkeypatch.setattr(search, "ROWS_PER_TASK", 10)
    hashes = np.repeat(make_hashes(1, 0), 300, axis=0)
    pairs = find_similar_hashes(hashes, None, LIMITS)
    assert 299 <= len(pairs) < 10_000
    assert set(pairs["second"]) == set(range(1, 300))
