"""Alignment of predicted maps with human attention: references of a data set, scores of an image, their summary.

`trainer.evaluate` measures models with it, and `labeler.teacher.evaluate` teachers, so that their figures can be
compared.
"""

from common.alignment.metrics import EARLIER_METRIC_NAMES, EXPLANATION, METRICS, Scores, score_prediction
from common.alignment.references import Reference, References
from common.alignment.summary import SUMMARY_METRICS, nan_to_none, score_values, summarize_scores

__all__ = [
    "EARLIER_METRIC_NAMES",
    "EXPLANATION",
    "METRICS",
    "SUMMARY_METRICS",
    "Reference",
    "References",
    "Scores",
    "nan_to_none",
    "score_prediction",
    "score_values",
    "summarize_scores",
]
