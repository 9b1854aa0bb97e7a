"""Summary of the scores of many images: means with bootstrap intervals, as JSON objects and as text tables."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.fixations import FixatedImage
from common.intervals import bootstrap_mean
from common.text import pluralize
from labeler.teacher.evaluation.scoring import ImageScores, Scores

# labels of predictions and metrics by their keys in results files
PREDICTIONS = {"teacher": "teacher", "centre_prior": "center prior", "human_split_half": "human split-half"}
METRIC_LABELS = {
    "cc": "CC",
    "kld": "KLD (lower is better)",
    "nss": "NSS",
    "sim": "SIM",
    "auc_judd": "AUC-Judd",
    "shuffled_auc": "shuffled AUC",
}


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
        """Return a score of every image, float64 [images]; NaN if an image has none."""
        rows = [getattr(image_scores, prediction) or {} for image_scores in self.scores]
        return np.array([row.get(metric, np.nan) for row in rows], np.float64)


def summarize(evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Return image counts and, by prediction and metric, the mean over images with its 95 % bootstrap interval."""
    scores = evaluation.scores
    return {
        "images": len(scores),
        "left_out": dict(evaluation.excluded),
        "constant_maps": sum(image_scores.constant for image_scores in scores),
        "without_split_half": sum(image_scores.human_split_half is None for image_scores in scores),
        **{
            prediction: {
                metric: bootstrap_mean(evaluation.values(prediction, metric), seed) for metric in METRIC_LABELS
            }
            for prediction in PREDICTIONS
        },
    }


def format_score_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row of text for each metric: its label, then mean and interval of each prediction."""
    return [
        (label, *(format_score(summary[prediction][metric]) for prediction in PREDICTIONS))
        for metric, label in METRIC_LABELS.items()
    ]


def format_table(data: str, summary: Mapping[str, Any]) -> str:
    """Format a summary as aligned text, with a row for each metric and a column for each prediction."""
    rows = [("", *PREDICTIONS.values()), *format_score_rows(summary)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ["   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{data}: {pluralize(summary['images'], 'image')}, mean [95 % interval]", *aligned])


def format_score(score: Mapping[str, Any]) -> str:
    """Format a mean with its interval: "0.705 [0.677, 0.733]", or "-" if there is none."""
    if score["mean"] is None:
        return "-"
    low, high = score["ci95"]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


def format_per_image_csv(evaluations: Sequence[Evaluation]) -> str:
    """Return the CSV of all images: data, image, the teacher's score by each metric, and the human split-half CC.

    Scores that are not defined are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "image", *METRIC_LABELS, "human_split_half_cc"])
    for evaluation in evaluations:
        columns = [evaluation.values("teacher", metric) for metric in METRIC_LABELS]
        columns.append(evaluation.values("human_split_half", "cc"))
        for image_scores, *values in zip(evaluation.scores, *columns, strict=True):
            cells = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
            writer.writerow([evaluation.data, image_scores.image, *cells])
    return text.getvalue()


def list_scores_per_image(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return all scores of all images as JSON objects; scores that are not defined are None."""
    return [
        {
            "image": image_scores.image,
            "constant_map": image_scores.constant,
            **{prediction: _nan_to_none(getattr(image_scores, prediction)) for prediction in PREDICTIONS},
        }
        for image_scores in evaluation.scores
    ]


def _nan_to_none(scores: Scores | None) -> dict[str, float | None] | None:
    if scores is None:
        return None
    return {metric: None if np.isnan(value) else value for metric, value in scores.items()}
