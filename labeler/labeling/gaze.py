"""Gaze points from an attention map: the inverse of blurring fixations into a map (paper, section 3.3, footnote 2)."""

import functools
import math

import numpy as np

from common.errors import ImageFailure, Reason

GAUSSIAN_RADIUS_IN_SIGMAS = 4.0  # beyond this distance the Gaussian is below 4e-4 of its height, and is cut off


def gaze_points(attention: np.ndarray, sigma: float, threshold: float = 0.2, max_points: int = 200) -> np.ndarray:
    """Extract gaze points by repeatedly taking the map's maximum and subtracting a Gaussian of that height there.

    Args:
        attention: non-negative map [H, W].
        sigma: standard deviation of the Gaussian in pixels of this map (SALICON: 19 at 480 x 640).
        threshold: stop when the maximum falls below this share of the first maximum.
        max_points: stop after this many points.

    Returns:
        float32 [n, 3], strongest point first: x and y in [0, 1] (pixel centers), and the strength, which is the value
        divided by the first maximum.

    Raises:
        ImageFailure (a ValueError): constant_map, non_finite_map.
    """
    remaining = np.array(attention, dtype=np.float32, order="C")
    height, width = remaining.shape
    first = float(remaining.max())
    check_map(first, float(remaining.min()))
    gaussian, radius = make_gaussian(sigma)
    flat = remaining.reshape(-1)
    points: list[tuple[float, float, float]] = []
    while len(points) < max_points:
        row, column = divmod(int(flat.argmax()), width)
        value = float(remaining[row, column])
        if value < threshold * first:
            break
        points.append(((column + 0.5) / width, (row + 0.5) / height, value / first))
        top, left = max(row - radius, 0), max(column - radius, 0)
        bottom, right = min(row + radius + 1, height), min(column + radius + 1, width)
        patch = gaussian[top - row + radius : bottom - row + radius, left - column + radius : right - column + radius]
        remaining[top:bottom, left:right] -= value * patch
    return np.array(points, dtype=np.float32).reshape(-1, 3)


def check_map(largest: float, smallest: float) -> None:
    """Check the largest and smallest value of a map. Raises ImageFailure: constant_map, non_finite_map."""
    if not (math.isfinite(largest) and math.isfinite(smallest)):
        raise ImageFailure(Reason.NON_FINITE_MAP, "the map holds NaN or infinity")
    if largest <= 0:
        raise ImageFailure(Reason.CONSTANT_MAP, f"the map's maximum is {largest:g}, expected a positive one")
    if largest - smallest <= 1e-6 * largest:
        raise ImageFailure(Reason.CONSTANT_MAP, f"the map is {largest:g} at every pixel, so no point stands out")


@functools.lru_cache(maxsize=8)
def make_gaussian(sigma: float) -> tuple[np.ndarray, int]:
    """Return a Gaussian of height 1, float32 [2 * radius + 1, 2 * radius + 1], and its radius in pixels."""
    radius = max(math.ceil(GAUSSIAN_RADIUS_IN_SIGMAS * sigma), 0)
    offsets = np.arange(-radius, radius + 1)
    profile = np.exp(-0.5 * (offsets / sigma) ** 2) if sigma > 0 else np.ones(1)
    return np.outer(profile, profile).astype(np.float32), radius
