"""Means, and how sure they are: of scores over images, of figures over runs."""

import math
from collections.abc import Sequence
from statistics import stdev
from typing import Any

import numpy as np

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # percentiles of the resamples' means


def bootstrap_mean(values: np.ndarray, seed: int) -> dict[str, Any]:
    """The mean of the values that are not NaN, and its 95 % bootstrap interval over images; None where there are none.

    Percentiles of the means of 2,000 resamples. The same seed draws the same resamples for equally many images.
    """
    valid = values[~np.isnan(values)]
    if not len(valid):
        return {"mean": None, "ci95": None, "images": 0}
    generator = np.random.default_rng(seed)
    means = [valid[generator.integers(len(valid), size=len(valid))].mean() for _ in range(RESAMPLES)]
    return {
        "mean": float(valid.mean()),
        "ci95": [float(bound) for bound in np.percentile(means, INTERVAL)],
        "images": len(valid),
    }


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of several runs; None of a single value or none."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def format_mean(value: float, error: float | None, digits: int = 2) -> str:
    """A mean with its standard error, if there is one."""
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
