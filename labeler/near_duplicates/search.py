"""Search for pairs of similar hashes, by comparing every hash with every other.

An index of parts of the hashes would not be quicker, because the hash of a cropped copy differs in up to a third of all
bits. But one of four words is enough to reject 99.8 % of the pairs of different images.
"""

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from common.parallel import available_cores, in_order
from common.progress import PROGRESS_DELAY, progress_bar
from labeler.near_duplicates.groups import PAIR_DTYPE, thin_pairs

MAX_FIRST_WORD = 20  # different bits in the first word; more of them reject a pair
ROWS_PER_TASK = 256
BLOCK_ROWS, BLOCK_COLUMNS = 16, 8192  # of hashes whose first words are compared at once, in the cache of a core
MAX_PAIRS = 5_000_000  # in memory; more are thinned


def find_similar_hashes(
    hashes: np.ndarray, others: np.ndarray | None, max_distance: int, threads: int | None = None
) -> np.ndarray:
    """Find the pairs of images of which one and the other, or one and the mirrored other one, have similar hashes.

    Args:
        hashes: packed hashes of n images, uint64 [n, 4].
        others: packed hashes of m images to compare them with; None compares the n images among each other.
        max_distance: maximum number of different bits.
        threads: number of threads, by default one per core.

    Returns `PAIR_DTYPE` [pairs]; `first` is a position in `hashes`, and `second` one in `hashes` followed by `others`.
    If there are more than `MAX_PAIRS`, as among thousands of copies, pairs of images are omitted that are connected by
    more similar pairs.
    """
    threads = threads or available_cores()
    compare = functools.partial(_compare_rows, hashes, others, max_distance)
    starts = range(0, len(hashes), ROWS_PER_TASK)
    images = len(hashes) + (0 if others is None else len(others))
    found = [np.empty(0, PAIR_DTYPE)]
    with ThreadPoolExecutor(threads) as pool:  # NumPy releases the interpreter lock
        tasks = in_order(pool, compare, starts, 2 * threads)
        bar = progress_bar(tasks, total=len(starts), unit=f" x {ROWS_PER_TASK} images", delay=PROGRESS_DELAY)
        for pairs in bar:
            found.append(pairs)
            if sum(map(len, found)) > max(MAX_PAIRS, 2 * images):
                found = [thin_pairs(np.concatenate(found), images)]
    return np.concatenate(found)


def _compare_rows(hashes: np.ndarray, others: np.ndarray | None, max_distance: int, start: int) -> np.ndarray:
    """Compare `ROWS_PER_TASK` hashes from `start` on with all others, or with those after each of them."""
    rows = hashes[start : start + ROWS_PER_TASK]
    found = [np.empty(0, PAIR_DTYPE)]
    columns = hashes if others is None else others
    for left in range(start if others is None else 0, len(columns), BLOCK_COLUMNS):
        block = columns[left : left + BLOCK_COLUMNS]
        row, column = np.concatenate(list(_compare_first_words(rows, block)), axis=1)
        pairs = _compare_all_words(rows, block, row, column, max_distance)
        pairs["first"] += start
        pairs["second"] += left if others is None else len(hashes) + left
        found.append(pairs)
    pairs = np.concatenate(found)
    return pairs[pairs["first"] < pairs["second"]]


def _compare_first_words(rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows and columns of candidates, int [2, n], whose first words differ in at most `MAX_FIRST_WORD` bits."""
    words, row_words = np.ascontiguousarray(columns[:, 0]), np.ascontiguousarray(rows[:, :1])
    different = np.empty((BLOCK_ROWS, len(columns)), np.uint64)
    counts = np.empty(different.shape, np.uint8)
    for top in range(0, len(rows), BLOCK_ROWS):
        height = min(BLOCK_ROWS, len(rows) - top)
        np.bitwise_xor(row_words[top : top + height], words, out=different[:height])
        np.bitwise_count(different[:height], out=counts[:height])
        row, column = np.divmod(np.flatnonzero(counts[:height] <= MAX_FIRST_WORD), len(columns))
        yield np.stack([row + top, column])


def _compare_all_words(
    rows: np.ndarray, columns: np.ndarray, row: np.ndarray, column: np.ndarray, max_distance: int
) -> np.ndarray:
    """Return the similar pairs among candidates, with `first` in `rows` and `second` in `columns`."""
    counts = np.bitwise_count(rows[row] ^ columns[column]).astype(np.int16)
    direct = counts[:, 2] + counts[:, 3]
    mirrored = 128 - direct  # see `PackedHashes`
    distance = counts[:, 0] + counts[:, 1] + np.minimum(direct, mirrored)
    similar = np.flatnonzero(distance <= max_distance)
    pairs = np.empty(len(similar), PAIR_DTYPE)
    pairs["first"], pairs["second"] = row[similar], column[similar]
    pairs["distance"], pairs["mirrored"] = distance[similar], (mirrored < direct)[similar]
    return pairs
