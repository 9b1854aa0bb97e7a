"""Scores of one predicted map by all alignment metrics, including the controls of CC."""

import math

import torch
from torch import Tensor

from common.alignment.references import Reference
from common.saliency import cc, resize_map, score_map

# labels of the metrics by their keys in results files
METRICS = {
    "cc": "CC",
    "cc_permuted": "CC with permuted targets",
    "cc_center": "CC of the center prior",
    "kld": "KLD (lower is better)",
    "nss": "NSS",
    "sim": "SIM",
    "auc_judd": "AUC-Judd",
    "auc_shuffled": "shuffled AUC",
}
EARLIER_METRIC_NAMES = {"shuffled_auc": "auc_shuffled"}  # in the files of earlier versions
# for the reader of a report
EXPLANATION = (
    "CC is the correlation of a map with the human attention map of the same image. Three figures show how much of it "
    "is gained by looking at the center alone. CC with permuted targets compares the map with the human attention map "
    "of another image of the data set. The center prior is the mean human attention map of all other images, which "
    "uses nothing of the image itself. The gain is CC minus the CC of the center prior, image by image. A model whose "
    "CC with permuted targets is near its CC has learned the center. Shuffled AUC compares fixations with those on "
    "other images, so that the center scores 0.5; NSS is the height of the map at fixations, in standard deviations."
)

Scores = dict[str, float]  # of an image, by metric; NaN if a metric is not defined


@torch.no_grad()
def score_prediction(prediction: Tensor, reference: Reference) -> Scores:
    """Score a predicted map of an image, non-negative [h, w], by all `METRICS`.

    `cc_permuted` is the prediction's CC with the human attention map of another image, and `cc_center` is the CC of the
    center prior, which does not depend on the prediction. Both are NaN if the data set has a single image. The other
    metrics are those of `common.saliency.score_map`, which defines when they are NaN.
    """
    scores = score_map(prediction, reference.attention, reference.fixations, reference.negatives)
    scores["auc_shuffled"] = scores.pop("shuffled_auc")
    scores["cc_permuted"] = _correlate(prediction, reference.permuted)
    scores["cc_center"] = _correlate(reference.center_prior, reference.attention)
    return {metric: scores[metric] for metric in METRICS}


def _correlate(prediction: Tensor | None, target: Tensor | None) -> float:
    if prediction is None or target is None:
        return math.nan
    return cc(resize_map(prediction, target.shape)[None], target[None]).item()
