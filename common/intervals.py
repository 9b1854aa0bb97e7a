"""Means with their uncertainty: bootstrap intervals over images, standard errors over training runs."""

import math
from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

import numpy as np

RESAMPLES = 2000
INTERVAL_PERCENTILES = (2.5, 97.5)


def bootstrap_mean(values: np.ndarray, seed: int) -> dict[str, Any]:
    """Return the mean of the values that are not NaN, and its 95 % percentile bootstrap interval over images.

    The same seed draws the same 2,000 resamples for equally many images.

    Args:
        values: scores by image, [n]; NaN for images without a score.
        seed: seed of the resampling.

    Returns `mean`, `ci95` (lower and upper bound; `mean` and `ci95` are None if no image has a score) and `images`, the
    number of images with a score.
    """
    valid = values[~np.isnan(values)]
    if not len(valid):
        return {"mean": None, "ci95": None, "images": 0}
    generator = np.random.default_rng(seed)
    means = [valid[generator.integers(len(valid), size=len(valid))].mean() for _ in range(RESAMPLES)]
    return {
        "mean": float(valid.mean()),
        "ci95": [float(bound) for bound in np.percentile(means, INTERVAL_PERCENTILES)],
        "images": len(valid),
    }


def format_estimate(estimate: Mapping[str, Any], number: str = ".3f") -> str:
    """Format what `bootstrap_mean` returns: "0.705 [0.677, 0.733]", or "-" if there is none."""
    if estimate["mean"] is None:
        return "-"
    low, high = estimate["ci95"]
    return f"{estimate['mean']:{number}} [{low:{number}}, {high:{number}}]"


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of several runs; None for fewer than two."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def format_mean(value: float, error: float | None, digits: int = 2) -> str:
    """Format a mean, followed by "± error" unless the standard error is None."""
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
