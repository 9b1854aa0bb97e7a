"""Matching the samples of two labelings by the images that they belong to."""

import numpy as np

KEY_DTYPE = np.dtype([("digest", "S16"), ("source", "S8")])


def match_samples(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Match the samples of two labelings, `ROW_DTYPE` [samples], by the checksum of the source image.

    Images that occur several times in one of the labelings are matched by the paths of their sources in addition.
    Checksums are compared by their first 16 bytes: the probability that two of a billion different images agree in
    these is about 10^-21.

    Returns the positions of the matched samples in `a`, ascending, and those of their partners in `b`.
    """
    repeated = np.union1d(_find_repeated(a["digest"]), _find_repeated(b["digest"]))
    _, in_a, in_b = np.intersect1d(_make_keys(a, repeated), _make_keys(b, repeated), return_indices=True)
    order = np.argsort(in_a)
    return in_a[order], in_b[order]


def _find_repeated(digests: np.ndarray) -> np.ndarray:
    values, counts = np.unique(digests, return_counts=True)
    return values[counts > 1]


def _make_keys(rows: np.ndarray, repeated: np.ndarray) -> np.ndarray:
    """Return what samples are matched by, as strings of bytes, which sort fast."""
    keys = np.zeros(len(rows), KEY_DTYPE)
    keys["digest"] = rows["digest"]
    keys["source"] = np.where(np.isin(rows["digest"], repeated), rows["source"], b"")
    return keys.view(f"S{KEY_DTYPE.itemsize}")
