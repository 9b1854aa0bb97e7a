"""Gaze points of a map, against the paper's literal loop: a delta at each maximum, blurred over the whole map.

The bars are for maps of about 25 points (random points, blurred as fixations are). The teacher's maps of real
photographs, shown beside them where the development data are there, have fewer. Ours works on the labelling job's
120 x 160 grid, the literal loop on 224 x 224, as the paper's maps are.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from timing import SHARED_DATA, against, medians, table
from torchvision.io import ImageReadMode, decode_image

from labeler.labeling.gaze import gaze_points
from labeler.labeling.label import GAZE_GRID, GAZE_SIGMA, predict_maps, to_teacher_input
from labeler.teacher.weights import load_teacher

MILLISECONDS, RATIO = 0.2, 200
MAPS = 32
LITERAL = 3  # maps for the literal loop, which is slow
SIDE = 224
POINTS = 30  # drawn for each made-up map; some fall together


def main() -> None:
    grids = made_up_maps()
    large = F.interpolate(torch.from_numpy(grids[:LITERAL])[:, None], (SIDE, SIDE), mode="bilinear")[:, 0].numpy()
    cases: dict[str, Callable[[], object]] = {
        "all": lambda: [gaze_points(grid, GAZE_SIGMA) for grid in grids],
        "ours": lambda: [gaze_points(grid, GAZE_SIGMA) for grid in grids[:LITERAL]],
        "literal": lambda: [literal_points(attention) for attention in large],
    }
    real = real_maps() if SHARED_DATA.is_dir() else None
    if real is not None:
        cases["real"] = lambda: [gaze_points(grid, GAZE_SIGMA) for grid in real]
    seconds = medians(5, **cases)
    milliseconds = seconds["all"] / MAPS * 1e3
    rows = [
        (f"ours, {GAZE_GRID[0]} x {GAZE_GRID[1]}, a map", *against(milliseconds, MILLISECONDS, "ms", most=True)),
        (f"literal loop, {SIDE} x {SIDE}, a map", f"{seconds['literal'] / LITERAL * 1e3:.1f} ms", ""),
        ("literal / ours, on the same maps", *against(seconds["literal"] / seconds["ours"], RATIO)),
    ]
    if real is not None:
        rows.append(
            (f"ours, maps of photographs, {mean_points(real):.1f} points", f"{seconds['real'] / MAPS * 1e3:.3g} ms", "")
        )
    table(f"gaze points ({mean_points(grids):.1f} a map)", rows)


def mean_points(grids: np.ndarray) -> float:
    """Points a map."""
    return float(np.mean([len(gaze_points(grid, GAZE_SIGMA)) for grid in grids]))


def real_maps() -> np.ndarray:
    """Maps of real photographs, as the labelling job has them: float32 [n, 120, 160]."""
    teacher = load_teacher(str(SHARED_DATA / "attention-center" / "center.tflite"))
    paths = sorted((SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))[:MAPS]
    pictures = (to_teacher_input(decode_image(str(path), ImageReadMode.RGB), 1) for path in paths)
    maps = [predict_maps(teacher, picture[None], SIDE, torch.device("cpu")).grid for picture in pictures]
    return np.concatenate(maps)


def made_up_maps() -> np.ndarray:
    """Maps of points drawn at random, blurred: float32 [n, 120, 160]."""
    generator = np.random.default_rng(0)
    maps = np.zeros((MAPS, *GAZE_GRID), np.float32)
    for single in maps:
        rows, columns = (generator.integers(0, size, POINTS) for size in GAZE_GRID)
        np.add.at(single, (rows, columns), generator.uniform(0.3, 1, POINTS))
        single[:] = gaussian_filter(single, GAZE_SIGMA)
        single /= single.max()
    return maps


def literal_points(attention: np.ndarray, threshold: float = 0.2) -> list[tuple[int, int, float]]:
    """The paper's footnote 2 word by word, with a filter over the whole map for each point."""
    sigma = 19 * SIDE / 480
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
