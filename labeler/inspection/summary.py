"""Sections of the statistics report, computed from the rows and sums of all samples."""

from typing import Any

import numpy as np

from labeler.inspection.shard_statistics import NO_CLASS
from labeler.publishing.index_sums import SampleSums
from labeler.publishing.map_measures import CELLS_PER_SIDE

QUANTILES = (5, 25, 50, 75, 95)  # percent
GRID_SIDE = 7  # cells per side of the reported mean map
MAX_NAMES_PER_EXTREME = 5  # names given for the classes that share the smallest, or the largest, number of samples


def summarize_classes(rows: np.ndarray, names: list[str] | None) -> dict[str, Any] | None:
    """Summarize the class balance; return None if the data set has no classes.

    `names` holds the class names by index. Fewest, median, most and imbalance (most / fewest) cover only the classes
    that have samples.
    """
    if names is None:
        return None
    indices, counts = np.unique(rows["class"][rows["class"] != NO_CLASS], return_counts=True)
    samples = {_class_name(names, index): count for index, count in zip(indices.tolist(), counts.tolist(), strict=True)}
    return {
        "classes": len(names),
        "fewest": _describe_classes_of_size(min(samples.values()), samples) if samples else None,
        "median": float(np.median(counts)) if samples else None,
        "most": _describe_classes_of_size(max(samples.values()), samples) if samples else None,
        "imbalance": max(samples.values()) / min(samples.values()) if samples else None,
        "without_samples": [name for name in names if name not in samples],
    }


def summarize_maps(rows: np.ndarray, sums: SampleSums) -> dict[str, Any]:
    """Summarize the maps, and how their total mass is distributed over the frame of the stored pixels, in percent.

    The central third is a third of the width by a third of the height, and a ninth of the area.
    """
    total, third = float(sums.mass.sum()), slice(CELLS_PER_SIDE // 3, 2 * CELLS_PER_SIDE // 3)
    grid = sums.mass.reshape(GRID_SIDE, CELLS_PER_SIDE // GRID_SIDE, GRID_SIDE, CELLS_PER_SIDE // GRID_SIDE)
    return {
        "mean": _mean(rows["map_mean"]),
        "area": _mean(rows["map_area"]),
        "map_max": compute_quantiles(rows["map_max"]),
        "grid_percent": (100 * grid.sum(axis=(1, 3)) / total).tolist() if total else None,
        "central_third_percent": float(100 * sums.mass[third, third].sum() / total) if total else None,
    }


def summarize_gaze(rows: np.ndarray, sums: SampleSums, cap: int) -> dict[str, Any]:
    """Summarize the gaze points. `cap` is the largest number of points that an image can have.

    The spread is the standard deviation of the x and y of all points around their mean position.
    """
    points, total = rows["points"], int(rows["points"].sum(dtype=np.int64))
    mean = sums.points / max(total, 1)
    spread = np.sqrt((sums.squares / max(total, 1) - mean[:2] ** 2).clip(0))
    return {
        "points": total,
        "per_image": {"mean": _mean(points)} | compute_quantiles(points),
        "share_without": _mean(points == 0),
        "cap": cap,
        "share_at_cap": _mean(points >= cap),
        "mean_strength": float(mean[2]) if total else None,
        "mean_position": mean[:2].tolist() if total else None,
        "spread": spread.tolist() if total else None,
    }


def summarize_images(rows: np.ndarray, sums: SampleSums) -> dict[str, Any]:
    """Summarize the stored images: width and height in pixels, EXIF orientations that are not upright, re-encoding."""
    return {
        "width": compute_quantiles(rows["width"]),
        "height": compute_quantiles(rows["height"]),
        "turned": sums.turned,
        "reencoded": dict(sorted(sums.reencoded.items())),
    }


def _class_name(names: list[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"no class {index}"


def _describe_classes_of_size(count: int, samples: dict[str, int]) -> dict[str, Any]:
    """Describe the classes that have exactly `count` samples."""
    names = [name for name, number in samples.items() if number == count]
    return {"samples": count, "classes": len(names), "names": names[:MAX_NAMES_PER_EXTREME]}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def compute_quantiles(values: np.ndarray) -> dict[str, float | None]:
    """Return the linearly interpolated `QUANTILES`, with the keys "5%" and so on; None if there are no values."""
    quantiles = np.percentile(values, QUANTILES).tolist() if len(values) else [None] * len(QUANTILES)
    return {f"{percent}%": value for percent, value in zip(QUANTILES, quantiles, strict=True)}
