"""How well a map predicts where people look: KLD, CC, SIM, NSS and AUC, one implementation for losses and evaluation.

Maps are [B, H, W] on any device; 16-bit floats and integers are promoted to float32. Points are a list of B arrays or
tensors [n, 2 or more] whose first columns are x, y in [0, 1] of the frame: a point lies in column floor(x * W) and row
floor(y * H), in float64, of the map that it is read from, and 1 belongs to the last pixel. Repeated points count as
often as they come. Every score is that of one image, [B]; KLD, CC, SIM and NSS can be differentiated. A map or point
that is not finite, a point outside the frame and shapes that do not fit raise ValueError, which names the argument.

Definitions: the MIT saliency benchmark (Bylinskii et al., "What do different evaluation metrics tell us about saliency
models?", 2019; https://github.com/cvzoya/saliency), as pysaliency computes them.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.text import join_names

Points = np.ndarray | Tensor

# MATLAB's eps, which the benchmark adds. It does in float32 too: the gradient of Q/(P + eps) needs 1/eps^2, and that
# overflows only below 1e-19. float32's own eps, 1.2e-7, is larger than many pixels of a map that sums to 1.
EPSILON = 2.2204e-16
CONSTANT = 16  # a map whose values differ by no more than so many roundings is constant: resizing one leaves that much


def kld(prediction: Tensor, target: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the prediction from the target, in nats; 0 is best.

    Non-negative maps, each divided by its sum; one that is 0 everywhere is taken as uniform. The prediction is resized
    to the target's size. [B, H, W] each -> [B].
    sum Q log(eps + Q / (P + eps)): MIT's KLdiv.m, pysaliency's MIT_KLDiv.
    The gradient reaches 1/eps where P is 0 and Q is not: float32 and bfloat16 hold that, float16 does not.
    """
    p, q = map(_distribution, _pair(prediction, target, non_negative=True))
    return (q * (EPSILON + q / (p + EPSILON)).log()).sum((1, 2))


def sim(prediction: Tensor, target: Tensor) -> Tensor:
    """Similarity: the mass that two distributions share, 0 to 1.

    Maps as for `kld`. [B, H, W] each -> [B]. The paper's formula, and pysaliency's SIM; MIT's similarity.m first
    subtracts each map's minimum.
    """
    p, q = map(_distribution, _pair(prediction, target, non_negative=True))
    return torch.minimum(p, q).sum((1, 2))


def cc(prediction: Tensor, target: Tensor) -> Tensor:
    """Pearson's correlation over pixels, -1 to 1; 0 where a map is constant.

    The prediction is resized to the target's size (bilinear, antialiased). [B, H, W] each -> [B]. MIT's CC.m.
    """
    p, q = map(_standardised, _pair(prediction, target))
    return (p * q).mean((1, 2))


def nss(prediction: Tensor, points: Sequence[Points]) -> Tensor:
    """Normalised scanpath saliency: the mean over the points of (P - mean) / std, in standard deviations (ddof 0).

    [B, H, W] and B point arrays -> [B]. 0 where the map is constant, NaN where an image has no points: take
    `mean_over_images`. MIT's NSS.m, with repeated points.
    """
    maps = _checked("prediction", prediction)
    pixels, counts = points_to_pixels("points", points, maps)
    present = torch.arange(int(counts.max(initial=0))) < torch.from_numpy(counts)[:, None]
    padded = torch.zeros(present.shape, dtype=torch.int64)
    padded[present] = pixels
    values = _standardised(maps).flatten(1).gather(1, padded.to(maps.device))
    number = torch.from_numpy(counts).to(maps.device)
    total = torch.where(present.to(maps.device), values, 0).sum(1)
    return torch.where(number > 0, total / number.clamp(min=1), math.nan)


@torch.no_grad()
def auc_judd(prediction: Tensor, points: Sequence[Points]) -> Tensor:
    """Area under the ROC curve of fixated against all other pixels, with the fixated values as thresholds.

    [B, H, W] and B point arrays -> [B], without gradient. A threshold takes in all that is equal to it and the
    trapezoid rule joins the thresholds, so ties count half and a constant map gets 0.5 (MIT's AUC_Judd.m breaks ties by
    random jitter, and counts a pixel that is fixated twice once). NaN for an image without points, or without other
    pixels.
    """
    maps = _checked("prediction", prediction)
    pixels, counts = points_to_pixels("points", points, maps)
    scores = maps.new_full([len(maps)], math.nan)
    for index, fixated in enumerate(pixels.to(maps.device).split(counts.tolist())):
        values = maps[index].flatten()
        other = torch.ones_like(values, dtype=torch.bool)
        other[fixated] = False
        scores[index] = _area_at_fixated_values(values[fixated], values[other])
    return scores


@torch.no_grad()
def shuffled_auc(prediction: Tensor, points: Sequence[Points], other_points: Sequence[Points]) -> Tensor:
    """Area under the ROC curve of fixated pixels against those fixated on other images: centre bias earns nothing.

    [B, H, W], B point arrays and, for each, the points of other images -> [B], without gradient. Exact: the share of
    pairs that the map orders rightly, ties one half (Mann-Whitney), over all negatives given. MIT's AUC_shuffled.m
    approaches that with random subsets and thresholds 0.1 apart. NaN for an image without points or without negatives.
    """
    maps = _checked("prediction", prediction)
    pixels, counts = points_to_pixels("points", points, maps)
    other_pixels, other_counts = points_to_pixels("other_points", other_points, maps)
    fixated = pixels.to(maps.device).split(counts.tolist())
    elsewhere = other_pixels.to(maps.device).split(other_counts.tolist())
    scores = maps.new_full([len(maps)], math.nan)
    for index, values in enumerate(maps.flatten(1)):
        scores[index] = _area(values[fixated[index]], values[elsewhere[index]])
    return scores


@torch.no_grad()
def score_map(
    prediction: Tensor, target: Tensor, fixations: Points, other_fixations: Points | None = None
) -> dict[str, float]:
    """Score one predicted map by all metrics.

    Args:
        prediction: non-negative map [h, w]; resized to the target's size.
        target: human attention map [H, W].
        fixations: fixations on this image, [n, 2 or more] of x, y in [0, 1].
        other_fixations: fixations on other images, the negatives of shuffled AUC, which is omitted without them.

    Returns the score by metric: `cc`, `kld`, `nss`, `sim`, `auc_judd` and `shuffled_auc`. A constant prediction scores
    0 by CC and NSS and 0.5 by the AUCs, as their definitions imply.
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
    """The mean of the scores [B] that are not NaN -> scalar, NaN where none is left. Those left out get no gradient."""
    valid = ~scores.isnan()
    return torch.where(valid, scores, 0).sum() / valid.sum()


def resize_map(attention: Tensor, size: Sequence[int]) -> Tensor:
    """One map [h, w] in the size (height, width): bilinear, antialiased. A constant map stays exactly constant."""
    height, width = size
    if attention.shape == (height, width):
        return attention
    if is_constant(attention):  # what rounding makes of it, the AUCs would take for a prediction
        return attention.flatten()[:1].expand(height, width)
    return interpolate(attention[None, None], (height, width), mode="bilinear", align_corners=False, antialias=True)[
        0, 0
    ]


def is_constant(attention: Tensor) -> bool:
    """Is one map the same everywhere?"""
    return bool(attention.amin() == attention.amax())


def _checked(name: str, maps: Tensor, non_negative: bool = False) -> Tensor:
    """The maps, promoted to float32 at least."""
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(f"{name}: expected maps [B, H, W], found {list(maps.shape)}")
    low, high = maps.detach().flatten(1).aminmax(dim=1)
    if not bool(((low > -math.inf) & (high < math.inf) & (low >= (0 if non_negative else -math.inf))).all()):
        finite = low.isfinite() & high.isfinite()  # aminmax hands NaN through
        if not finite.all():
            raise ValueError(f"{name}: NaN or infinity in the maps of images {_where(~finite)}")
        raise ValueError(f"{name}: expected non-negative maps, found values below 0 in images {_where(low < 0)}")
    return maps.to(torch.promote_types(maps.dtype, torch.float32))


def _pair(prediction: Tensor, target: Tensor, non_negative: bool = False) -> tuple[Tensor, Tensor]:
    """Both maps checked, the prediction in the target's size."""
    prediction = _checked("prediction", prediction, non_negative)
    target = _checked("target", target, non_negative)
    if len(prediction) != len(target):
        raise ValueError(f"expected as many predictions as targets, found {len(prediction)} and {len(target)}")
    if prediction.shape != target.shape:
        prediction = _interpolated(prediction, (target.shape[1], target.shape[2]))
    return prediction, target


def _interpolated(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(maps[:, None], size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def _distribution(maps: Tensor) -> Tensor:
    """Each map divided by its sum; uniform where it is 0 everywhere."""
    largest = maps.detach().amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    scaled = maps / largest  # so that no sum overflows
    total = scaled.sum((1, 2), keepdim=True)
    uniform = 1 / math.prod(maps.shape[1:])
    return torch.where(total > 0, scaled / torch.where(total > 0, total, 1), uniform)


def _standardised(maps: Tensor) -> Tensor:
    """Each map with mean 0 and standard deviation 1 (ddof 0); 0 where it is constant.

    Scale and offset are taken out first, as constants, which changes neither result nor gradient but keeps the digits.
    """
    information = torch.finfo(maps.dtype)
    scaled = maps / maps.detach().abs().amax((1, 2), keepdim=True).clamp(min=information.tiny)
    shifted = scaled - scaled.detach().amin((1, 2), keepdim=True)
    constant = shifted.detach().amax((1, 2), keepdim=True) <= CONSTANT * information.eps
    deviation = shifted - shifted.mean((1, 2), keepdim=True)
    variance = deviation.square().mean((1, 2), keepdim=True)
    return torch.where(constant, 0, deviation / torch.where(constant, 1, variance).sqrt())


def points_to_pixels(name: str, points: Sequence[Points], maps: Tensor) -> tuple[Tensor, np.ndarray]:
    """The pixels of all points, as indices into the flattened maps, int64 [N]; and each image's n, int64 [B]."""
    height, width = maps.shape[1:]
    if len(points) != len(maps):
        raise ValueError(f"{name}: expected one array for each of {len(maps)} images, found {len(points)}")
    arrays = [array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array) for array in points]
    for index, array in enumerate(arrays):
        if array.ndim != 2 or array.shape[1] < 2:
            raise ValueError(f"{name}: expected [n, 2 or more], found {list(array.shape)} at image {index}")
    counts = np.array([len(array) for array in arrays], np.int64)
    coordinates = np.concatenate([np.empty((0, 2)), *(array[:, :2] for array in arrays)], dtype=np.float64)
    outside = ~((coordinates >= 0) & (coordinates <= 1)).all(1)  # true of NaN as well
    if outside.any():
        images = torch.from_numpy(np.repeat(np.arange(len(arrays)), counts)[outside].astype(np.int64))
        found = coordinates[outside][0].tolist()
        raise ValueError(f"{name}: expected x, y in [0, 1], found {found} in images {_listed(images.unique())}")
    columns, rows = (coordinates * (width, height)).astype(np.int64).T
    return torch.from_numpy(rows.clip(max=height - 1) * width + columns.clip(max=width - 1)), counts


def _area_at_fixated_values(positives: Tensor, negatives: Tensor) -> Tensor | float:
    """Area under the ROC curve whose thresholds are the distinct positive values; NaN where either is empty."""
    if not (len(positives) and len(negatives)):
        return math.nan
    thresholds = positives.unique()  # ascending, so from (1, 1) on
    hits, false_alarms = (_at_least(values, thresholds) for values in (positives, negatives))
    zero = hits.new_zeros(1)
    hits = torch.cat([zero + len(positives), hits, zero])
    false_alarms = torch.cat([zero + len(negatives), false_alarms, zero])
    twice = (-false_alarms.diff() * (hits[1:] + hits[:-1])).sum()  # whole numbers: exact
    return twice.to(positives.dtype) / (2 * len(positives) * len(negatives))


def _area(positives: Tensor, negatives: Tensor) -> Tensor | float:
    """The share of pairs in which the positive value is larger, ties one half; NaN where either is empty."""
    if not (len(positives) and len(negatives)):
        return math.nan
    ordered = negatives.sort().values
    smaller = torch.searchsorted(ordered, positives, side="left")
    not_larger = torch.searchsorted(ordered, positives, side="right")
    return (smaller + not_larger).sum().to(positives.dtype) / (2 * len(positives) * len(negatives))


def _at_least(values: Tensor, thresholds: Tensor) -> Tensor:
    """How many of the values are as large as each of the ascending thresholds or larger, int64."""
    reached = torch.bucketize(values, thresholds, right=True)  # quicker than to sort a whole map
    return len(values) - reached.bincount(minlength=len(thresholds) + 1).cumsum(0)[:-1]


def _where(mask: Tensor) -> str:
    """The images that a mask [B] marks, for an error message."""
    return _listed(mask.nonzero().flatten())


def _listed(images: Tensor, most: int = 10) -> str:
    """Indices as text, cut short."""
    return join_names([str(index) for index in images.tolist()], most)
