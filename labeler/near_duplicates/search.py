"""Search for pairs of similar hashes, by comparing hashes in three steps: some bits, one word, all words.

Tables of parts of the hashes, which are the usual way for small distances, would not be quicker: the hash of a cropped
copy differs in up to a third of all bits. But low frequencies change least, so few of their bits reject most pairs of
different images.
"""

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from common.parallel import available_cores, in_order
from common.progress import PROGRESS_DELAY, progress_bar
from labeler.near_duplicates.groups import PAIR_DTYPE, thin_pairs

LOWEST = np.uint64(0xFCFF)  # mask of the first 14 of the bits that `pack_hashes` packs, those of the lowest frequencies
ROWS_PER_TASK = 256
BLOCK_ROWS, BLOCK_COLUMNS = 16, 8192  # of hashes whose first words are compared at once, in the cache of a core
MAX_PAIRS = 5_000_000  # in memory; more are thinned


class Limits(NamedTuple):
    """Maximum numbers of bits in which the hashes of near-duplicates differ.

    The limits of some of the bits make the search quicker; they should reject few pairs that the limit of all accepts.
    """

    all: int
    first_word: int  # of 64
    lowest: int  # of `LOWEST`


def find_similar_hashes(
    hashes: np.ndarray, others: np.ndarray | None, limits: Limits, threads: int | None = None
) -> np.ndarray:
    """Find the pairs of images of which one and the other, or one and the mirrored other one, have similar hashes.

    Args:
        hashes: packed hashes of n images, uint64 [n, 4].
        others: packed hashes of m images to compare them with; None compares the n images among each other.
        limits: maximum numbers of different bits.
        threads: number of threads, by default one per core.

    Returns `PAIR_DTYPE` [pairs]; `first` is a position in `hashes`, and `second` a larger one in `hashes` followed by
    `others`. If there are more than `MAX_PAIRS`, as among thousands of copies, pairs of images are omitted that are
    connected by more similar pairs.
    """
    order = np.argsort(hashes[:, 0] & LOWEST, kind="stable")
    rows = hashes[order]
    columns, numbers = (rows, order) if others is None else (others, len(hashes) + np.arange(len(others)))
    images, tasks = len(hashes) + (0 if others is None else len(others)), list(_split_rows(rows[:, 0] & LOWEST))
    first_words = np.ascontiguousarray(columns[:, 0])
    lowest = (first_words & LOWEST).astype(np.uint16)
    compare = functools.partial(_compare_rows, rows, columns, first_words, lowest, others is None, limits)
    threads = threads or available_cores()
    found, total = [np.empty(0, PAIR_DTYPE)], 0
    with ThreadPoolExecutor(threads) as pool:  # NumPy releases the interpreter lock
        results = in_order(pool, compare, tasks, 2 * threads)
        for pairs in progress_bar(results, total=len(tasks), unit=" parts", delay=PROGRESS_DELAY):
            ends = np.stack([order[pairs["first"]], numbers[pairs["second"]]])
            pairs["first"], pairs["second"] = ends.min(0), ends.max(0)
            found.append(pairs)
            total += len(pairs)
            if total > max(MAX_PAIRS, 2 * images):
                found = [thin_pairs(np.concatenate(found), images)]
                total = len(found[0])
    return np.concatenate(found)


def _split_rows(lowest: np.ndarray) -> Iterator[slice]:
    """Yield ranges of at most `ROWS_PER_TASK` equal values of a sorted array."""
    borders = [0, *(np.flatnonzero(np.diff(lowest)) + 1).tolist(), len(lowest)]
    for start, stop in itertools.pairwise(borders):
        for first in range(start, stop, ROWS_PER_TASK):
            yield slice(first, min(first + ROWS_PER_TASK, stop))


def _compare_rows(
    hashes: np.ndarray,
    others: np.ndarray,
    first_words: np.ndarray,
    lowest: np.ndarray,
    within: bool,
    limits: Limits,
    part: slice,
) -> np.ndarray:
    """Compare hashes with the same lowest frequencies with all others or, within one set, with those after each.

    `first_words`, uint64 [m], and `lowest`, their bits of the lowest frequencies as uint16 [m], are parts of `others`
    in a contiguous array.
    """
    rows, start = hashes[part], part.start if within else 0
    different = np.bitwise_count(lowest[start:] ^ np.uint16(rows[0, 0] & LOWEST))
    columns = start + np.flatnonzero(different <= limits.lowest)
    found = [np.empty(0, PAIR_DTYPE)]
    for left in range(0, len(columns), BLOCK_COLUMNS):
        block = columns[left : left + BLOCK_COLUMNS]
        row, column = _compare_first_words(rows[:, 0], first_words[block], limits.first_word)
        pairs = _compare_all_words(rows, others, row, block[column], limits.all)
        pairs["first"] += part.start
        found.append(pairs[pairs["first"] < pairs["second"]] if within else pairs)
    return np.concatenate(found)


def _compare_first_words(rows: np.ndarray, columns: np.ndarray, max_distance: int) -> np.ndarray:
    """Return rows and columns of candidates, int [2, n], whose words differ in at most `max_distance` bits."""
    different = np.empty((BLOCK_ROWS, len(columns)), np.uint64)
    counts = np.empty(different.shape, np.uint8)
    candidates = []
    for top in range(0, len(rows), BLOCK_ROWS):
        height = min(BLOCK_ROWS, len(rows) - top)
        np.bitwise_xor(rows[top : top + height, None], columns, out=different[:height])
        np.bitwise_count(different[:height], out=counts[:height])
        candidates.append(top * len(columns) + np.flatnonzero(counts[:height] <= max_distance))
    return np.stack(np.divmod(np.concatenate(candidates), len(columns)))


def _compare_all_words(
    rows: np.ndarray, columns: np.ndarray, row: np.ndarray, column: np.ndarray, max_distance: int
) -> np.ndarray:
    """Return the similar pairs among candidates, with `first` in `rows` and `second` in `columns`."""
    counts = np.bitwise_count(rows[row] ^ columns[column]).astype(np.int16)
    direct = counts[:, 2] + counts[:, 3]
    mirrored = 128 - direct  # see `pack_hashes`
    distance = counts[:, 0] + counts[:, 1] + np.minimum(direct, mirrored)
    similar = np.flatnonzero(distance <= max_distance)
    pairs = np.empty(len(similar), PAIR_DTYPE)
    pairs["first"], pairs["second"] = row[similar], column[similar]
    pairs["distance"], pairs["mirrored"] = distance[similar], (mirrored < direct)[similar]
    return pairs
