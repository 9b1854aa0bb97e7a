"""Scores of many images -> their means with bootstrap intervals, as an object for programs and a table for people."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.fixations import FixatedImage
from common.intervals import bootstrap_mean
from labeler.teacher.evaluation.image_scores import ImageScores, Scores

PREDICTIONS = {"teacher": "teacher", "centre_prior": "centre prior", "human_split_half": "human split-half"}
METRICS = {  # as the field writes them
    "cc": "CC",
    "kld": "KLD (lower is better)",
    "nss": "NSS",
    "sim": "SIM",
    "auc_judd": "AUC-Judd",
    "shuffled_auc": "shuffled AUC",
}


class Evaluation(NamedTuple):
    """A data set's images, their scores in the same order, and counts of what its reader left out, by reason."""

    data: str
    images: Sequence[FixatedImage]
    scores: Sequence[ImageScores]
    left_out: Mapping[str, int]

    def of(self, prediction: str, metric: str) -> np.ndarray:
        """Every image's score, float64 [images]; NaN where it has none."""
        rows = [getattr(scored, prediction) or {} for scored in self.scores]
        return np.array([row.get(metric, np.nan) for row in rows], np.float64)


def summarize(evaluation: Evaluation, seed: int) -> dict[str, Any]:
    """Counts of images, and for each prediction and metric the mean, its interval and how many images it is of."""
    scores = evaluation.scores
    return {
        "images": len(scores),
        "left_out": dict(evaluation.left_out),
        "constant_maps": sum(scored.constant for scored in scores),
        "without_split_half": sum(scored.human_split_half is None for scored in scores),
        **{
            prediction: {metric: bootstrap_mean(evaluation.of(prediction, metric), seed) for metric in METRICS}
            for prediction in PREDICTIONS
        },
    }


def format_table(data: str, summary: Mapping[str, Any]) -> str:
    """One line a metric, one column a prediction."""
    rows = [("", *PREDICTIONS.values())]
    rows += [
        (label, *(format_score(summary[name][metric]) for name in PREDICTIONS)) for metric, label in METRICS.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = ["   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{data}: {summary['images']:,} images, mean [95 % interval]", *aligned])


def format_score(found: Mapping[str, Any]) -> str:
    """A mean and its interval as text."""
    if found["mean"] is None:
        return "-"
    low, high = found["ci95"]
    return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"


def per_image_table(evaluations: Sequence[Evaluation]) -> str:
    """CSV: data, image, the teacher's score by every metric, the CC of people's halves; empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "image", *METRICS, "human_split_half_cc"])
    for evaluation in evaluations:
        columns = [evaluation.of("teacher", metric) for metric in METRICS]
        columns.append(evaluation.of("human_split_half", "cc"))
        for scored, *values in zip(evaluation.scores, *columns, strict=True):
            cells = ["" if np.isnan(value) else f"{value:.6g}" for value in values]
            writer.writerow([evaluation.data, scored.image, *cells])
    return text.getvalue()


def per_image_objects(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every score of every image, None where it has none."""
    return [
        {
            "image": scored.image,
            "constant_map": scored.constant,
            **{prediction: _without_nan(getattr(scored, prediction)) for prediction in PREDICTIONS},
        }
        for scored in evaluation.scores
    ]


def _without_nan(scores: Scores | None) -> dict[str, float | None] | None:
    if scores is None:
        return None
    return {metric: None if np.isnan(value) else value for metric, value in scores.items()}
