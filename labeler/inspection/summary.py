"""From the rows and sums of all samples to the figures that people ask for."""

from typing import Any

import numpy as np

from labeler.inspection.tally import CELLS, NO_CLASS, Sums

QUANTILES = (5, 25, 50, 75, 95)  # percent
GRID = 7  # cells a side of the mean map
NAMED = 5  # classes that are named where many have as few or as many samples


def summarize_classes(rows: np.ndarray, names: list[str] | None) -> dict[str, Any] | None:
    """Class balance, with the classes' names by index; None where there are none.

    Fewest, median, most and imbalance (most / fewest) are of the classes that have samples.
    """
    if names is None:
        return None
    indices, counts = np.unique(rows["class"][rows["class"] != NO_CLASS], return_counts=True)
    samples = {_name(names, index): count for index, count in zip(indices.tolist(), counts.tolist(), strict=True)}
    return {
        "classes": len(names),
        "fewest": _having(min(samples.values()), samples) if samples else None,
        "median": float(np.median(counts)) if samples else None,
        "most": _having(max(samples.values()), samples) if samples else None,
        "imbalance": max(samples.values()) / min(samples.values()) if samples else None,
        "without_samples": [name for name in names if name not in samples],
    }


def summarize_maps(rows: np.ndarray, sums: Sums) -> dict[str, Any]:
    """The maps, and where their mass lies: in percent of all maps' mass, in cells of the frame of the stored pixels.

    The central third is a third of the width by a third of the height: a ninth of the frame.
    """
    mass, third = float(sums.maps.sum()), slice(CELLS // 3, 2 * CELLS // 3)
    cells = sums.maps.reshape(GRID, CELLS // GRID, GRID, CELLS // GRID).sum(axis=(1, 3))
    return {
        "mean": _mean(rows["map_mean"]),
        "area": _mean(rows["map_area"]),
        "map_max": _quantiles(rows["map_max"]),
        "grid_percent": (100 * cells / mass).tolist() if mass else None,
        "central_third_percent": float(100 * sums.maps[third, third].sum() / mass) if mass else None,
    }


def summarize_gaze(rows: np.ndarray, sums: Sums, cap: int) -> dict[str, Any]:
    """The gaze points: of each image, and all together. `cap` is the most that an image can have.

    The spread is the standard deviation of all points' x and y around their mean position.
    """
    points, total = rows["points"], int(rows["points"].sum(dtype=np.int64))
    mean = sums.points / max(total, 1)
    spread = np.sqrt((sums.squares / max(total, 1) - mean[:2] ** 2).clip(0))
    return {
        "points": total,
        "per_image": {"mean": _mean(points)} | _quantiles(points),
        "share_without": _mean(points == 0),
        "cap": cap,
        "share_at_cap": _mean(points >= cap),
        "mean_strength": float(mean[2]) if total else None,
        "mean_position": mean[:2].tolist() if total else None,
        "spread": spread.tolist() if total else None,
    }


def summarize_images(rows: np.ndarray, sums: Sums) -> dict[str, Any]:
    """The pictures as they are stored: sides in pixels, how many a viewer turns, how many were encoded anew."""
    return {
        "width": _quantiles(rows["width"]),
        "height": _quantiles(rows["height"]),
        "turned": sums.turned,
        "reencoded": dict(sorted(sums.reencoded.items())),
    }


def _name(names: list[str], index: int) -> str:
    return names[index] if 0 <= index < len(names) else f"no class {index}"


def _having(count: int, samples: dict[str, int]) -> dict[str, Any]:
    """The classes that have so many samples."""
    names = [name for name, found in samples.items() if found == count]
    return {"samples": count, "classes": len(names), "names": names[:NAMED]}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean(dtype=np.float64)) if len(values) else None


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    """By name: `5%` and so on, interpolated linearly; null where there are no values."""
    found = np.percentile(values, QUANTILES).tolist() if len(values) else [None] * len(QUANTILES)
    return {f"{percent}%": value for percent, value in zip(QUANTILES, found, strict=True)}
