"""Measures of attention maps that previews and statistics share."""

import functools
import math

import numpy as np

CELLS_PER_SIDE = 21  # divisible by 7 (the printed mean map) and by 3 (the central third)


def compute_map_mean(attention: np.ndarray) -> float:
    """Return the mean of a map, uint8 [H, W], where 255 counts as 1."""
    return float(attention.mean()) / 255


def compute_map_area(attention: np.ndarray) -> float:
    """Return the fraction of the frame that a map, uint8 [H, W], spreads over: its perplexity per pixel.

    The perplexity is exp(entropy) of the map normalized to a probability distribution over its pixels; it is divided by
    their number. A uniform map gives 1, a map with a single nonzero pixel 1 / (H W), and a map of zeros 0.
    """
    counts, values = np.bincount(attention.ravel(), minlength=256)[1:], np.arange(1, 256)
    total = float(counts @ values)
    if total == 0:
        return 0.0
    entropy = math.log(total) - float(counts @ (values * np.log(values))) / total
    return math.exp(entropy) / attention.size


def sum_by_cell(attention: np.ndarray) -> np.ndarray:
    """Sum a map, uint8 [H, W], over a grid of equal cells that cover the frame; 255 counts as 1.

    A pixel that crosses a cell border is divided between the cells in proportion to its overlap with each. Returns
    float64 [CELLS_PER_SIDE, CELLS_PER_SIDE], rows from the top.
    """
    height, width = attention.shape
    return _pixel_overlaps(height) @ attention @ _pixel_overlaps(width).T / 255


@functools.lru_cache(8)
def _pixel_overlaps(pixels: int) -> np.ndarray:
    """Return the fraction of each pixel of a line that lies in each cell: [CELLS_PER_SIDE, pixels]."""
    borders, starts = np.arange(CELLS_PER_SIDE + 1)[:, None] * (pixels / CELLS_PER_SIDE), np.arange(pixels)
    return (np.minimum(borders[1:], starts + 1) - np.maximum(borders[:-1], starts)).clip(0)
