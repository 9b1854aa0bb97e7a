"""Gaze points of a batch of maps, on the device that holds the maps: the points of `gaze_points`, to the last bit."""

import functools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labeler.labeling.gaze import check_map, make_gaussian

ROUNDS_PER_CHECK = 8  # a check whether all maps are finished waits for the device


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
