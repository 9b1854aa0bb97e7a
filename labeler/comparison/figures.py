"""Figures of how much two labelings of an image differ."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.distance import cdist

from common.saliency import cc, kld, nss, resize_maps
from common.shards import Sample

# labels of the figures by their keys in the report
FIGURES = {
    "cc": "CC",
    "kld_a_b": "KLD of B from A, KL(A || B)",
    "kld_b_a": "KLD of A from B, KL(B || A)",
    "nss_a_on_b": "NSS of A's points on B's map",
    "nss_b_on_a": "NSS of B's points on A's map",
    "gaze_distance": "distance between the points of A and B",
}
EXPLANATION = (
    "CC is the correlation of the two maps. KL(A || B) is the Kullback-Leibler divergence in nats with A as the "
    "reference; large values mean that B has almost no attention where A has some. NSS is the height of a map at the "
    "other one's gaze points, in standard deviations of the map; chance is 0. The distance between the points is the "
    "mean over A's points of the distance to the nearest point of B, averaged with the same from B to A, as a fraction "
    "of the diagonal of the image. Of maps of different sizes, the larger one is reduced to the smaller one's size."
)


@torch.no_grad()
def score_pairs(pairs: Sequence[tuple[Sample, Sample]]) -> np.ndarray:
    """Compute the `FIGURES` of pairs of samples of the same image, float64 [pairs, figures].

    All samples of one side have maps of the same size. NSS is NaN without points to score, and so is the distance if
    either side has no points.
    """
    a, b = (
        torch.from_numpy(np.stack([sample.attention for sample in side])).float() for side in zip(*pairs, strict=True)
    )
    size = min(a.shape[1:], b.shape[1:])
    a, b = (maps if maps.shape[1:] == size else resize_maps(maps, size) for maps in (a, b))
    points_a, points_b = ([sample.gaze for sample in side] for side in zip(*pairs, strict=True))
    distances = [
        measure_distance(first.gaze, second.gaze, first.info.width, first.info.height) for first, second in pairs
    ]
    scores = [cc(b, a), kld(b, a), kld(a, b), nss(b, points_a), nss(a, points_b), torch.tensor(distances)]
    return torch.stack([score.double() for score in scores], dim=1).numpy()


def measure_distance(a: np.ndarray, b: np.ndarray, width: int, height: int) -> float:
    """Return the symmetric mean distance between nearest points, as a fraction of the diagonal of the image.

    Takes points [n, 2 or more] of x and y in [0, 1] of the frame, whose width and height are in pixels. It is the mean
    over the points of `a` of the distance to the nearest point of `b`, averaged with the same from `b` to `a`. NaN if
    either has no points.
    """
    if not (len(a) and len(b)):
        return math.nan
    distances = cdist(a[:, :2] * (width, height), b[:, :2] * (width, height))
    nearest = distances.min(1).mean(), distances.min(0).mean()
    return float(sum(nearest)) / 2 / math.hypot(width, height)
