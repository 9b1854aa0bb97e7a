"""Perceptual hashes as machine words, in an order of the bits that makes comparing pairs of hashes quick."""

import numpy as np
import pyarrow as pa

BITS = 256
FREQUENCIES = 16  # per axis
HASHES_AT_ONCE = 100_000  # that are rearranged, with a byte per bit


def pack_hashes(hashes: pa.ChunkedArray) -> np.ndarray:
    """Pack hashes in hexadecimal, without nulls, into words, uint64 [n, 4].

    The first word has the 64 lowest of the 128 frequencies that mirroring an image leaves as they are, which are the
    even ones along x; the second word has the rest of them. Mirroring inverts the bits of the other two words, except
    those of coefficients near the median: 6 of 128 on average.

    Raises ValueError if a value is not a hash.
    """
    words = np.empty((len(hashes), BITS // 64), np.uint64)
    order = _order_bits()
    for start in range(0, len(hashes), HASHES_AT_ONCE):
        texts = hashes.slice(start, HASHES_AT_ONCE).to_pylist()
        if wrong := next((text for text in texts if len(text) != BITS // 4), None):
            raise ValueError(f"expected hashes of {BITS // 4} hexadecimal digits, found {wrong!r}")
        codes = np.frombuffer(bytes.fromhex("".join(texts)), np.uint8).reshape(len(texts), -1)
        bits = np.unpackbits(codes, axis=1).take(order, axis=1)
        words[start : start + len(texts)] = np.packbits(bits, axis=1).view(np.uint64)
    return words


def _order_bits() -> np.ndarray:
    """Return the positions of the bits in a hash, those of even frequencies along x first, lower frequencies first."""
    row, column = np.divmod(np.arange(BITS), FREQUENCIES)  # of the coefficient; its frequencies are these plus 1
    order = np.lexsort([(row + 1) ** 2 + (column + 1) ** 2, column % 2 == 0])
    return BITS - 1 - order  # the lowest frequencies come last in a hash
