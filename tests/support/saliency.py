"""Random maps and points for tests of saliency metrics."""

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

HEIGHT, WIDTH = 12, 17


def make_maps(count: int, seed: int, height: int = HEIGHT, width: int = WIDTH, dtype=torch.float64) -> torch.Tensor:
    """Return maps without ties, whose scales differ by orders of magnitude."""
    generator = np.random.default_rng(seed)
    scale = 10.0 ** generator.uniform(-3, 3, (count, 1, 1))
    return torch.from_numpy(generator.uniform(1e-3, 1, (count, height, width)) ** 3 * scale).to(dtype)


def make_points(counts: list[int], seed: int, columns: int = 2) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.uniform(0, 1, (count, columns)) for count in counts]


def to_pixels(points: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(points[:, 1] * height).astype(int), np.floor(points[:, 0] * width).astype(int)


def pixel_centers(rows: np.ndarray, columns: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Return points at the centers of pixels."""
    return np.stack([(columns + 0.5) / width, (rows + 0.5) / height], 1)


def distinct_points(count: int, seed: int) -> np.ndarray:
    """Return points in different pixels."""
    chosen = np.random.default_rng(seed).choice(HEIGHT * WIDTH, count, replace=False)
    return pixel_centers(*np.unravel_index(chosen, (HEIGHT, WIDTH)))


map_values = arrays(np.float64, (HEIGHT, WIDTH), elements=st.floats(0, 1, allow_subnormal=False))
non_constant = map_values.filter(lambda values: np.ptp(values) > 1e-3)
point_values = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.floats(0, 1)))


def to_batch(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[None]
