"""Summary of the scores of many images: means with bootstrap intervals, and the gain over the center prior."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.alignment.metrics import METRICS
from common.intervals import bootstrap_mean

GAIN = "gain"  # CC minus the CC of the center prior on the same image
# labels of a summary's figures by their keys in results files
SUMMARY_METRICS = {**METRICS, GAIN: "gain of CC over the center prior"}


def score_values(scores: Sequence[Mapping[str, float]], metric: str) -> np.ndarray:
    """Return a figure of `SUMMARY_METRICS` for each image, float64 [images]; NaN if an image has none."""
    if metric == GAIN:
        return score_values(scores, "cc") - score_values(scores, "cc_center")
    return np.array([values.get(metric, math.nan) for values in scores], np.float64)


def summarize_scores(scores: Sequence[Mapping[str, float]], seed: int) -> dict[str, dict[str, Any]]:
    """Return mean, 95 % bootstrap interval and number of images by figure, as `bootstrap_mean` does.

    The gain is a paired difference: its interval is that of the differences within images.
    """
    return {metric: bootstrap_mean(score_values(scores, metric), seed) for metric in SUMMARY_METRICS}


def nan_to_none(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN by None, which JSON can represent."""
    return {metric: None if math.isnan(value) else value for metric, value in scores.items()}
