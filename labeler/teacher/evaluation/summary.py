"""Summary of the scores of many images: means with bootstrap intervals, as JSON objects and as text tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from common.alignment import (
    EARLIER_METRIC_NAMES,
    METRICS,
    SUMMARY_METRICS,
    Scores,
    nan_to_none,
    score_values,
    summarize_scores,
)
from common.fixations import FixatedImage
from common.intervals import format_estimate
from common.text import pluralize
from labeler.teacher.evaluation.scoring import ImageScores

# labels of predictions by their keys in results files
PREDICTIONS = {"teacher": "teacher", "centre_prior": "centered Gaussian", "human_split_half": "human split-half"}
T = TypeVar("T")


class Evaluation(NamedTuple):
    """Scores of a teacher on one data set.

    `data` is the location of the data set, `scores` are in the order of `images`, and `excluded` counts what was
    excluded when the data set was read, by reason.
    """

    data: str
    images: Sequence[FixatedImage]
    scores: Sequence[ImageScores]
    excluded: Mapping[str, int]

    def values(self, prediction: str, metric: str) -> np.ndarray:
        """Return a figure of `SUMMARY_METRICS` for every image, float64 [images]; NaN if an image has none."""
        return score_values(self._scores_of(prediction), metric)

    def summarize(self, prediction: str, seed: int) -> dict[str, dict[str, Any]]:
        """Return means with intervals of a prediction's scores, as `summarize_scores` does."""
        return summarize_scores(self._scores_of(prediction), seed)

    def _scores_of(self, prediction: str) -> list[Scores]:
        return [getattr(image_scores, prediction) or {} for image_scores in self.scores]


def summarize(evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Return image counts and, by prediction and metric, the mean over images with its 95 % bootstrap interval."""
    scores = evaluation.scores
    return {
        "images": len(scores),
        "left_out": dict(evaluation.excluded),
        "constant_maps": sum(image_scores.constant for image_scores in scores),
        "without_split_half": sum(image_scores.human_split_half is None for image_scores in scores),
        **{prediction: with_earlier_names(evaluation.summarize(prediction, seed)) for prediction in PREDICTIONS},
    }


def format_score_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each figure: its label, then mean and interval of each prediction."""
    return [
        (label, *(format_estimate(summary[prediction][metric]) for prediction in PREDICTIONS))
        for metric, label in SUMMARY_METRICS.items()
    ]


def format_table(data: str, summary: Mapping[str, Any]) -> str:
    """Format a summary as aligned text, with a row for each metric and a column for each prediction."""
    rows = [("", *PREDICTIONS.values()), *format_score_rows(summary)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ["   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{data}: {pluralize(summary['images'], 'image')}, mean [95 % interval]", *aligned])


def format_per_image_csv(evaluations: Sequence[Evaluation]) -> str:
    """Return the CSV of all images: data, image, the teacher's score by each metric, and the human split-half CC.

    Scores that are not defined are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = list(with_earlier_names(METRICS))
    writer.writerow(["data", "image", *metrics, "human_split_half_cc"])
    for evaluation in evaluations:
        for image_scores in evaluation.scores:
            halves = image_scores.human_split_half or {}
            values = [with_earlier_names(image_scores.teacher)[metric] for metric in metrics]
            cells = ["" if np.isnan(value) else f"{value:.6g}" for value in [*values, halves.get("cc", np.nan)]]
            writer.writerow([evaluation.data, image_scores.image, *cells])
    return text.getvalue()


def list_scores_per_image(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return all scores of all images as JSON objects; scores that are not defined are None."""

    def to_json(scores: Scores | None) -> dict[str, float | None] | None:
        return None if scores is None else with_earlier_names(nan_to_none(scores))

    return [
        {
            "image": image_scores.image,
            "constant_map": image_scores.constant,
            **{prediction: to_json(getattr(image_scores, prediction)) for prediction in PREDICTIONS},
        }
        for image_scores in evaluation.scores
    ]


def with_earlier_names(figures: Mapping[str, T]) -> dict[str, T]:
    """Return figures by metric, with those that earlier versions wrote under another name under both names."""
    return {**figures, **{earlier: figures[metric] for earlier, metric in EARLIER_METRIC_NAMES.items()}}
