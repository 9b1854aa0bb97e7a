"""Gaze points from attention maps: the inverse of blurring fixations into a map (paper, section 3.3, footnote 2).

`gaze_points` takes one map. `find_peaks` takes a batch of maps on any device, and finds the same points to the last
bit. On a GPU it is the faster one, on a CPU `gaze_points` is; `batch_gaze_points` chooses.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import ImageFailure, Reason

GAUSSIAN_RADIUS_IN_SIGMAS = 4.0  # beyond this distance the Gaussian is below 4e-4 of its height, and is cut off
# Size of the maps from which gaze points are extracted. The teacher's finest saliency branch has stride 8 (60 x 80), so
# a grid of twice that size loses nothing.
GAZE_GRID = (120, 160)
GAZE_SIGMA = 19 * GAZE_GRID[0] / 480  # SALICON blurs fixations with 19 pixels at 480 x 640
ROUNDS_PER_CHECK = 8  # of `find_peaks`: a check whether all maps are finished waits for the device


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


class Peaks(NamedTuple):
    """The peaks of a batch of maps [B, H, W], strongest first.

    `size` is (H, W), `values` is float32 [B, n], `positions` int64 [B, n] (row * W + column), `numbers` int64 [B] (how
    many of the n are peaks of this map), and `largest` and `smallest` are float32 [B], the extremes of each map.
    """

    size: tuple[int, int]
    values: np.ndarray
    positions: np.ndarray
    numbers: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray

    def points(self, index: int) -> np.ndarray:
        """Return what `gaze_points` returns for the map at this index. Raises ImageFailure as it does."""
        first = float(self.largest[index])
        check_map(first, float(self.smallest[index]))
        height, width = self.size
        number = self.numbers[index]
        rows, columns = np.divmod(self.positions[index, :number], width)
        strengths = self.values[index, :number].astype(np.float64) / first
        points = ((columns + 0.5) / width, (rows + 0.5) / height, strengths)
        return np.stack(points, axis=1).astype(np.float32)


def find_peaks(maps: Tensor, sigma: float, threshold: float, max_points: int) -> Peaks:
    """Find the peaks of maps, float32 [B, H, W]. The other arguments are those of `gaze_points`.

    Each round takes the maximum of each map and subtracts a Gaussian of that height there, with the operations of
    `gaze_points` in the same order.
    """
    batch, height, width = maps.shape
    gaussian = _shiftable_gaussian(sigma, height, width, maps.device)
    offsets = torch.arange(height * width, device=maps.device)
    rows, columns = (torch.arange(size, device=maps.device) for size in (height, width))
    remaining = maps.flatten(1)
    largest, smallest = remaining.amax(1), remaining.amin(1)
    limit = largest.double() * threshold
    alive = torch.ones(batch, dtype=torch.bool, device=maps.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in range(max_points):
        value = remaining.amax(1)
        alive = alive & (value.double() >= limit)
        if number % ROUNDS_PER_CHECK == ROUNDS_PER_CHECK - 1 and not alive.any():
            break
        # the first of equal maxima; a map with NaN has none
        position = torch.where(remaining == value[:, None], offsets, height * width - 1).amin(1)
        found.append((value, position, alive))
        row, column = position // width, position % width
        window = gaussian[
            (height - 1 - row[:, None] + rows)[:, :, None], (width - 1 - column[:, None] + columns)[:, None, :]
        ]
        remaining = remaining - (value * alive)[:, None] * window.flatten(1)
    values, positions, present = (torch.stack(column, dim=1) for column in zip(*found, strict=True))
    results = (values, positions, present.sum(1), largest, smallest)
    return Peaks((height, width), *(result.cpu().numpy() for result in results))


@functools.lru_cache(maxsize=8)
def _shiftable_gaussian(sigma: float, height: int, width: int, device: torch.device) -> Tensor:
    """Return the Gaussian of `gaze_points` in the middle of zeros, float32 [2 * height - 1, 2 * width - 1].

    Its part [height - 1 - row, ...] [width - 1 - column, ...] of size [height, width] is a map with its peak at row and
    column.
    """
    gaussian, radius = make_gaussian(sigma)
    table = torch.zeros(2 * height - 1, 2 * width - 1)
    vertical, horizontal = min(radius, height - 1), min(radius, width - 1)
    inner = gaussian[radius - vertical : radius + vertical + 1, radius - horizontal : radius + horizontal + 1]
    middle = table[height - 1 - vertical : height + vertical, width - 1 - horizontal : width + horizontal]
    middle[:] = torch.from_numpy(inner)
    return table.to(device)


def batch_gaze_points(maps: Tensor, sigma: float, threshold: float = 0.2, max_points: int = 200) -> list[np.ndarray]:
    """Extract the gaze points of each map of a batch, float32 [B, H, W], on the device that holds the maps.

    Constant maps have no points. The other arguments, and the points, are those of `gaze_points`.

    Raises:
        ImageFailure (a ValueError): non_finite_map.
    """

    def extract(index: int) -> np.ndarray:
        return gaze_points(maps[index].numpy(), sigma, threshold, max_points)

    points_of = find_peaks(maps, sigma, threshold, max_points).points if maps.is_cuda else extract
    return [_points_or_none(points_of, index) for index in range(len(maps))]


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


def _points_or_none(points_of: Callable[[int], np.ndarray], index: int) -> np.ndarray:
    """Return the points of the map at an index, none for a constant map."""
    try:
        return points_of(index)
    except ImageFailure as failure:
        if failure.reason == Reason.CONSTANT_MAP:
            return np.empty((0, 3), np.float32)
        raise
