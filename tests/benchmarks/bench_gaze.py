"""Gaze point extraction, against the paper's loop taken literally: a delta at each maximum, blurred over the whole map.

The bars hold for maps of about 25 points (random points, blurred like fixations). The teacher's maps of real
photographs have fewer points; they are measured too if the development data exist. Both sides work on the labeling
job's grid of 120 x 160; another row measures the literal loop at 224 x 224, the size of the stored maps.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from timing import SHARED_DATA, Row, print_table, ratios, time_cases

from common.gaze import GAZE_GRID, GAZE_SIGMA, gaze_points
from common.images import decode_jpeg
from labeler.labeling.label import predict_maps, to_teacher_input
from labeler.teacher.weights import load_teacher

BAR_MILLISECONDS, BAR_RATIO = 0.2, 40
MAPS = 32
LITERAL_MAPS = 3  # the literal loop is slow
SIDE = 224
POINTS = 30  # random points per synthetic map; some coincide


def main() -> None:
    grids = make_synthetic_maps()
    large = F.interpolate(torch.from_numpy(grids[:LITERAL_MAPS])[:, None], (SIDE, SIDE), mode="bilinear")[:, 0].numpy()
    cases: dict[str, Callable[[], object]] = {
        "all": lambda: [gaze_points(grid, GAZE_SIGMA) for grid in grids],
        "ours": lambda: [gaze_points(grid, GAZE_SIGMA) for grid in grids[:LITERAL_MAPS]],
        "literal": lambda: [extract_literally(attention, GAZE_SIGMA) for attention in grids[:LITERAL_MAPS]],
        "large": lambda: [extract_literally(attention, 19 * SIDE / 480) for attention in large],
    }
    real = predict_real_maps() if SHARED_DATA.is_dir() else None
    if real is not None:
        cases["real"] = lambda: [gaze_points(grid, GAZE_SIGMA) for grid in real]
    seconds = time_cases(5, **cases)
    size = f"{GAZE_GRID[0]} x {GAZE_GRID[1]}"
    rows = [
        Row(f"ours, {size}", per_map(seconds["all"], MAPS), "ms per map", at_most=BAR_MILLISECONDS),
        Row(f"literal loop, {size}", per_map(seconds["literal"], LITERAL_MAPS), "ms per map"),
        Row("literal / ours, same grid, same maps", ratios(seconds["literal"], seconds["ours"]), "x", BAR_RATIO),
        Row(f"literal loop, {SIDE} x {SIDE}", per_map(seconds["large"], LITERAL_MAPS), "ms per map"),
    ]
    if real is not None:
        rows.append(
            Row(f"ours, photographs, {mean_points(real):.1f} points", per_map(seconds["real"], MAPS), "ms per map")
        )
    print_table(f"gaze points ({mean_points(grids):.1f} points per map)", rows)


def per_map(seconds: list[float], maps: int) -> list[float]:
    """Return milliseconds per map of each repetition."""
    return [duration / maps * 1e3 for duration in seconds]


def mean_points(grids: np.ndarray) -> float:
    """Return the mean number of gaze points per map."""
    return float(np.mean([len(gaze_points(grid, GAZE_SIGMA)) for grid in grids]))


def predict_real_maps() -> np.ndarray:
    """Predict maps of real photographs as the labeling job does. Returns float32 [n, 120, 160]."""
    teacher = load_teacher(str(SHARED_DATA / "attention-center" / "center.tflite"))
    paths = sorted((SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))[:MAPS]
    pictures = (to_teacher_input(decode_jpeg(path.read_bytes()), 1) for path in paths)
    maps = [predict_maps(teacher, picture[None], SIDE).grid.numpy() for picture in pictures]
    return np.concatenate(maps)


def make_synthetic_maps() -> np.ndarray:
    """Blur random points into maps. Returns float32 [n, 120, 160]."""
    generator = np.random.default_rng(0)
    maps = np.zeros((MAPS, *GAZE_GRID), np.float32)
    for attention in maps:
        rows, columns = (generator.integers(0, size, POINTS) for size in GAZE_GRID)
        np.add.at(attention, (rows, columns), generator.uniform(0.3, 1, POINTS))
        attention[:] = gaussian_filter(attention, GAZE_SIGMA)
        attention /= attention.max()
    return maps


def extract_literally(attention: np.ndarray, sigma: float, threshold: float = 0.2) -> list[tuple[int, int, float]]:
    """Follow the paper's section 3.3 literally, with a filter over the whole map for each point."""
    remaining, points = attention.copy(), []
    first = float(remaining.max())
    while (value := float(remaining.max())) >= threshold * first:
        row, column = np.unravel_index(remaining.argmax(), remaining.shape)
        delta = np.zeros_like(remaining)
        delta[row, column] = 1
        blurred = gaussian_filter(delta, sigma)
        remaining -= blurred * (value / blurred.max())
        points.append((int(row), int(column), value / first))
    return points


if __name__ == "__main__":
    main()
