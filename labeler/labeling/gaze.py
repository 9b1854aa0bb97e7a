"""Attention map -> gaze points (paper 3.3 and its footnote 2): the inverse of blurring fixations into a map."""

import functools
import math

import numpy as np

from common.errors import ImageFailure, Reason

REACH = 4.0  # the Gaussian is cut off at so many sigmas, where it is 3e-4 of its height


def gaze_points(attention: np.ndarray, sigma: float, threshold: float = 0.2, max_points: int = 200) -> np.ndarray:
    """Take the map's maximum, subtract a Gaussian of that height there, repeat.

    `attention` is a non-negative map [H, W]; `sigma` the Gaussian's, in pixels of this map (SALICON: 19 at 480 x 640).
    Stops when the maximum is below `threshold` times the first, or after `max_points`.
    Returns float32 [n, 3]: x and y in [0, 1] (pixel centres), strength = value / first maximum; strongest first.
    Raises ImageFailure (a ValueError): constant_map, non_finite_map.
    """
    remaining = np.array(attention, dtype=np.float32, order="C")
    height, width = remaining.shape
    first = float(remaining.max())
    if not (math.isfinite(first) and math.isfinite(float(remaining.min()))):
        raise ImageFailure(Reason.NON_FINITE_MAP, "the map holds NaN or infinity")
    if first <= 0:
        raise ImageFailure(Reason.CONSTANT_MAP, f"the map is {first:g} where it is highest: nobody looks anywhere")
    if first - float(remaining.min()) <= 1e-6 * first:
        raise ImageFailure(Reason.CONSTANT_MAP, f"the map is {first:g} everywhere: it has no maximum")
    gaussian, reach = _gaussian(sigma)
    flat = remaining.reshape(-1)
    points: list[tuple[float, float, float]] = []
    while len(points) < max_points:
        row, column = divmod(int(flat.argmax()), width)
        value = float(remaining[row, column])
        if value < threshold * first:
            break
        points.append(((column + 0.5) / width, (row + 0.5) / height, value / first))
        top, left = max(row - reach, 0), max(column - reach, 0)
        bottom, right = min(row + reach + 1, height), min(column + reach + 1, width)
        patch = gaussian[top - row + reach : bottom - row + reach, left - column + reach : right - column + reach]
        remaining[top:bottom, left:right] -= value * patch
    return np.array(points, dtype=np.float32).reshape(-1, 3)


@functools.lru_cache(maxsize=8)
def _gaussian(sigma: float) -> tuple[np.ndarray, int]:
    """A Gaussian of height 1, float32 [2 * reach + 1, 2 * reach + 1], and its reach in pixels."""
    reach = max(math.ceil(REACH * sigma), 0)
    offsets = np.arange(-reach, reach + 1)
    profile = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    return np.outer(profile, profile).astype(np.float32), reach
