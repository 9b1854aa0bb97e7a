"""Saliency metrics: how well an attention map predicts human fixations (KLD, CC, SIM, NSS, AUC-Judd, shuffled AUC).

Training losses and evaluation use the same functions. All of them share these conventions:

- Maps are tensors [B, H, W] on any device. Integers and 16-bit floats are promoted to float32. A prediction [B, h, w]
  is resized to the size of the target that it is compared with (bilinear, antialiased).
- Points (fixations) are a sequence of B arrays or tensors [n, 2 or more], whose first columns are x and y, in [0, 1] of
  the frame. On a map of H x W pixels, a point lies in column floor(x * W) and row floor(y * H), computed in float64; a
  coordinate of 1 belongs to the last pixel. A point that occurs several times counts several times.
- Scores are per image, [B]. KLD, CC, SIM and NSS are differentiable, the AUCs are not.
- NaN means that an image has no score, because it has no points to score; `mean_over_images` skips such images.
- ValueError is raised, and names the argument, if a map contains NaN or infinity, a point is outside of the frame, or
  shapes do not match.

The definitions are those of the MIT Saliency Benchmark (Bylinskii et al., "What do different evaluation metrics tell us
about saliency models?", 2019; https://github.com/cvzoya/saliency), as computed by pysaliency. The docstrings name
the deviations from the benchmark's MATLAB code.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.text import join_names

Points = np.ndarray | Tensor

# MATLAB's double-precision eps, as in the benchmark's KLdiv.m. It suits float32 too: the gradient of Q / (P + eps)
# needs 1 / eps^2, which overflows only for eps below 1e-19; float32's own eps, 1.2e-7, exceeds many pixels of P.
EPSILON = 2.2204e-16
# A map counts as constant if its values, relative to the largest magnitude, differ by at most this many machine
# epsilons: resizing a constant map leaves rounding errors of that size.
CONSTANT_TOLERANCE = 16


def kld(prediction: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(target || prediction), in nats; from 0 (best) to 36, which is -log(eps).

    With P and Q, the prediction and the target divided by their sums: sum Q log(eps + Q / (P + eps)), as in MIT's
    KLdiv.m and pysaliency's MIT_KLDiv. Gradients reach 1 / eps where P is 0 and Q is not; float32 and bfloat16 can
    represent that, float16 cannot.

    Takes non-negative maps [B, h, w] and [B, H, W]. Returns [B], never NaN: a map of zeros is treated as uniform.
    """
    p, q = map(_to_distribution, _check_pair(prediction, target, non_negative=True))
    return (q * (EPSILON + q / (p + EPSILON)).log()).sum((1, 2))


def sim(prediction: Tensor, target: Tensor) -> Tensor:
    """Similarity: the mass that two distributions have in common, from 0 to 1 (best).

    With P and Q, the prediction and the target divided by their sums: sum min(P, Q), as in Bylinskii et al. and
    pysaliency's SIM. MIT's similarity.m subtracts the minimum of each map first; this function does not.

    Takes non-negative maps [B, h, w] and [B, H, W]. Returns [B], never NaN: a map of zeros is treated as uniform.
    """
    p, q = map(_to_distribution, _check_pair(prediction, target, non_negative=True))
    return torch.minimum(p, q).sum((1, 2))


def cc(prediction: Tensor, target: Tensor) -> Tensor:
    """Pearson's correlation coefficient over the pixels of two maps, from -1 to 1 (best), as in MIT's CC.m.

    Takes maps [B, h, w] and [B, H, W]. Returns [B], never NaN: the score is 0 if either map is constant.
    """
    p, q = map(_standardize, _check_pair(prediction, target))
    return (p * q).mean((1, 2))


def nss(prediction: Tensor, points: Sequence[Points]) -> Tensor:
    """Normalized scanpath saliency: the mean of the standardized map at the fixations; unbounded, chance is 0.

    The map is standardized to (P - mean) / std over its pixels (ddof 0), so scores are in standard deviations. As in
    MIT's NSS.m, except that repeated fixations count repeatedly.

    Takes maps [B, H, W] and the fixations of each image. Returns [B]: 0 if the map is constant, NaN if the image has no
    fixations.
    """
    maps = _check_maps("prediction", prediction)
    pixels, counts = points_to_pixels("points", points, maps)
    present = torch.arange(int(counts.max(initial=0))) < torch.from_numpy(counts)[:, None]
    padded = torch.zeros(present.shape, dtype=torch.int64)
    padded[present] = pixels
    values = _standardize(maps).flatten(1).gather(1, padded.to(maps.device))
    number = torch.from_numpy(counts).to(maps.device)
    total = torch.where(present.to(maps.device), values, 0).sum(1)
    return torch.where(number > 0, total / number.clamp(min=1), math.nan)


@torch.no_grad()
def auc_judd(prediction: Tensor, points: Sequence[Points]) -> Tensor:
    """AUC-Judd: area under the ROC curve of fixated pixels against all other pixels, from 0 to 1; chance is 0.5.

    The thresholds are the map's values at the fixations. Each threshold includes the pixels that are equal to it, and
    the trapezoidal rule connects the thresholds; so ties count half, and a constant map scores 0.5. MIT's AUC_Judd.m
    breaks ties with random jitter instead, and counts a pixel that is fixated twice only once.

    Takes maps [B, H, W] and the fixations of each image. Returns [B], without gradient: NaN if the image has no
    fixations, or if all of its pixels are fixated.
    """
    maps = _check_maps("prediction", prediction)
    pixels, counts = points_to_pixels("points", points, maps)
    scores = maps.new_full([len(maps)], math.nan)
    for index, fixated in enumerate(pixels.to(maps.device).split(counts.tolist())):
        values = maps[index].flatten()
        other = torch.ones_like(values, dtype=torch.bool)
        other[fixated] = False
        scores[index] = _area_at_positive_values(values[fixated], values[other])
    return scores


@torch.no_grad()
def shuffled_auc(prediction: Tensor, points: Sequence[Points], other_points: Sequence[Points]) -> Tensor:
    """Shuffled AUC: area under the ROC curve of fixations on an image against fixations on other images.

    It lies between 0 and 1, chance is 0.5. Because both sets have the center bias of human fixations, a map gains
    nothing from predicting that bias. The area is exact: the fraction of pairs of a fixation and a negative in which
    the map is higher at the fixation, ties counting half (Mann-Whitney U, normalized). MIT's AUC_shuffled.m
    approximates it with random subsets of the negatives and thresholds in steps of 0.1.

    Takes maps [B, H, W], the fixations of each image, and its negatives, all of which are used. Returns [B], without
    gradient: NaN if the image has no fixations or no negatives.
    """
    maps = _check_maps("prediction", prediction)
    pixels, counts = points_to_pixels("points", points, maps)
    other_pixels, other_counts = points_to_pixels("other_points", other_points, maps)
    fixated = pixels.to(maps.device).split(counts.tolist())
    negatives = other_pixels.to(maps.device).split(other_counts.tolist())
    scores = maps.new_full([len(maps)], math.nan)
    for index, values in enumerate(maps.flatten(1)):
        scores[index] = _area_over_pairs(values[fixated[index]], values[negatives[index]])
    return scores


@torch.no_grad()
def score_map(
    prediction: Tensor, target: Tensor, fixations: Points, other_fixations: Points | None = None
) -> dict[str, float]:
    """Score one predicted map by all metrics.

    Args:
        prediction: non-negative map [h, w], resized to the size of the target.
        target: human attention map [H, W], non-negative.
        fixations: fixations on this image, [n, 2 or more] of x and y in [0, 1].
        other_fixations: fixations on other images, the negatives of shuffled AUC; None skips this metric.

    Returns the score of each metric: `cc`, `kld`, `nss`, `sim`, `auc_judd` and `shuffled_auc`. Without fixations, `nss`
    and the AUCs are NaN. A constant prediction scores 0 by CC and NSS and 0.5 by the AUCs.
    """
    maps, targets = resize_map(prediction, target.shape)[None], target[None]
    scores = {
        "cc": cc(maps, targets),
        "kld": kld(maps, targets),
        "nss": nss(maps, [fixations]),
        "sim": sim(maps, targets),
        "auc_judd": auc_judd(maps, [fixations]),
    }
    if other_fixations is not None:
        scores["shuffled_auc"] = shuffled_auc(maps, [fixations], [other_fixations])
    return {metric: score.item() for metric, score in scores.items()}


def mean_over_images(scores: Tensor) -> Tensor:
    """Return the mean of the scores [B] that are not NaN, a scalar; NaN if there are none.

    Differentiable: images without a score get a gradient of 0, not NaN.
    """
    valid = ~scores.isnan()
    return torch.where(valid, scores, 0).sum() / valid.sum()


def resize_map(attention: Tensor, size: Sequence[int]) -> Tensor:
    """Resize one map [h, w] to `size` (height, width): bilinear, antialiased. A constant map stays exactly constant."""
    height, width = size
    if attention.shape == (height, width):
        return attention
    if is_constant(attention):  # interpolation would add rounding errors, which the AUCs would rank as a prediction
        return attention.flatten()[:1].expand(height, width)
    return resize_maps(attention[None], (height, width))[0]


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps [B, h, w] to `size` (height, width): bilinear, antialiased, differentiable."""
    return interpolate(maps[:, None], tuple(size), mode="bilinear", align_corners=False, antialias=True)[:, 0]


def is_constant(attention: Tensor) -> bool:
    """Return True if all values of one map are exactly equal."""
    return bool(attention.amin() == attention.amax())


def points_to_pixels(name: str, points: Sequence[Points], maps: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return the pixels of maps [B, H, W] in which the points of each image lie.

    Returns the index of each point into the flattened map of its image, image after image, int64 [N]; and the number of
    points of each image, int64 [B]. Raises ValueError, naming the points `name`, if any are invalid.
    """
    height, width = maps.shape[1:]
    if len(points) != len(maps):
        raise ValueError(f"{name}: expected one array for each of {len(maps)} images, found {len(points)}")
    arrays = [array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array) for array in points]
    for index, array in enumerate(arrays):
        if array.ndim != 2 or array.shape[1] < 2:
            raise ValueError(f"{name}: expected [n, 2 or more], found {list(array.shape)} at image {index}")
    counts = np.array([len(array) for array in arrays], np.int64)
    coordinates = np.concatenate([np.empty((0, 2)), *(array[:, :2] for array in arrays)], dtype=np.float64)
    outside = ~((coordinates >= 0) & (coordinates <= 1)).all(1)  # NaN counts as outside
    if outside.any():
        images = torch.from_numpy(np.repeat(np.arange(len(arrays)), counts)[outside].astype(np.int64))
        first = coordinates[outside][0].tolist()
        raise ValueError(f"{name}: expected x, y in [0, 1], found {first} in images {_join_indices(images.unique())}")
    columns, rows = (coordinates * (width, height)).astype(np.int64).T
    return torch.from_numpy(rows.clip(max=height - 1) * width + columns.clip(max=width - 1)), counts


def _check_maps(name: str, maps: Tensor, non_negative: bool = False) -> Tensor:
    """Return maps promoted to at least float32. Raises ValueError for a wrong shape or invalid values."""
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"{name}: expected maps [B, H, W], found {list(maps.shape)}")
    low, high = maps.detach().flatten(1).aminmax(dim=1)
    if not bool(((low > -math.inf) & (high < math.inf) & (low >= (0 if non_negative else -math.inf))).all()):
        finite = low.isfinite() & high.isfinite()  # aminmax propagates NaN
        if not finite.all():
            raise ValueError(f"{name}: NaN or infinity in the maps of images {_join_indices((~finite).nonzero())}")
        negative = _join_indices((low < 0).nonzero())
        raise ValueError(f"{name}: expected non-negative maps, found values below 0 in images {negative}")
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _check_pair(prediction: Tensor, target: Tensor, non_negative: bool = False) -> tuple[Tensor, Tensor]:
    """Check predictions and targets, and resize the predictions to the size of the targets."""
    prediction = _check_maps("prediction", prediction, non_negative)
    target = _check_maps("target", target, non_negative)
    if len(prediction) != len(target):
        raise ValueError(f"expected as many predictions as targets, found {len(prediction)} and {len(target)}")
    if prediction.shape != target.shape:
        prediction = resize_maps(prediction, (target.shape[1], target.shape[2]))
    return prediction, target


def _to_distribution(maps: Tensor) -> Tensor:
    """Divide each map by its sum. A map of zeros becomes uniform."""
    largest = maps.detach().amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    scaled = maps / largest  # the sum cannot overflow
    total = scaled.sum((1, 2), keepdim=True)
    uniform = 1 / math.prod(maps.shape[1:])
    return torch.where(total > 0, scaled / torch.where(total > 0, total, 1), uniform)


def _standardize(maps: Tensor) -> Tensor:
    """Scale each map to mean 0 and standard deviation 1 (ddof 0). A constant map becomes 0.

    The map is first divided by its largest magnitude, and its minimum is subtracted. Both are treated as constants,
    which changes neither the result nor the gradient, but avoids overflow and the loss of digits.
    """
    information = torch.finfo(maps.dtype)
    scaled = maps / maps.detach().abs().amax((1, 2), keepdim=True).clamp(min=information.tiny)
    shifted = scaled - scaled.detach().amin((1, 2), keepdim=True)
    constant = shifted.detach().amax((1, 2), keepdim=True) <= CONSTANT_TOLERANCE * information.eps
    deviation = shifted - shifted.mean((1, 2), keepdim=True)
    variance = deviation.square().mean((1, 2), keepdim=True)
    return torch.where(constant, 0, deviation / torch.where(constant, 1, variance).sqrt())


def _area_at_positive_values(positives: Tensor, negatives: Tensor) -> Tensor | float:
    """Return the area under the ROC curve whose thresholds are the distinct positive values; NaN if either is empty."""
    if not (len(positives) and len(negatives)):
        return math.nan
    thresholds = positives.unique()  # ascending, so the curve starts at (1, 1)
    hits, false_alarms = (_count_at_least(values, thresholds) for values in (positives, negatives))
    zero = hits.new_zeros(1)
    hits = torch.cat([zero + len(positives), hits, zero])
    false_alarms = torch.cat([zero + len(negatives), false_alarms, zero])
    doubled_area = (-false_alarms.diff() * (hits[1:] + hits[:-1])).sum()  # exact, in integers
    return doubled_area.to(positives.dtype) / (2 * len(positives) * len(negatives))


def _area_over_pairs(positives: Tensor, negatives: Tensor) -> Tensor | float:
    """Return the fraction of pairs in which the positive is larger, ties counting half; NaN if either is empty."""
    if not (len(positives) and len(negatives)):
        return math.nan
    ordered = negatives.sort().values
    smaller = torch.searchsorted(ordered, positives, side="left")
    not_larger = torch.searchsorted(ordered, positives, side="right")
    return (smaller + not_larger).sum().to(positives.dtype) / (2 * len(positives) * len(negatives))


def _count_at_least(values: Tensor, thresholds: Tensor) -> Tensor:
    """Return how many values are at least as large as each of the ascending thresholds, int64."""
    reached = torch.bucketize(values, thresholds, right=True)  # faster than sorting a whole map
    return len(values) - reached.bincount(minlength=len(thresholds) + 1).cumsum(0)[:-1]


def _join_indices(images: Tensor, most: int = 10) -> str:
    """Format the indices of images for an error message."""
    return join_names([str(index) for index in images.flatten().tolist()], most)
