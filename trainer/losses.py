"""Loss functions: those of SimCLR, VICReg and BYOL, and the attention loss, all over the batch of all ranks."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor

from common.saliency import kld, nss

Reduction = Literal["sum_of_views", "mean"]
VICREG_EPSILON = 1e-4  # added to variances, as in the paper


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.1, reduction: Reduction = "sum_of_views") -> Tensor:
    """Compute SimCLR's normalized, temperature-scaled cross-entropy loss (Chen et al. 2020, eq. 1).

    Each of the 2N embeddings is compared with the 2N - 1 others, where N is the number of images over all ranks; the
    positive is the other view of the same image. Embeddings are gathered with gradients: if ranks average their
    gradients, as DistributedDataParallel does, the result is that of one process with all N images. The value is this
    rank's part of the loss; the loss is its mean over ranks.

    Args:
        z1: embeddings of the first view of n images, [n, D]; normalized to unit length here.
        z2: embeddings of the second view of the same images, [n, D].
        temperature: divisor of the cosine similarities.
        reduction: "sum_of_views" adds the mean losses of the first and the second views, as SimCLR's reference code
            does; "mean" is the mean over both views, half of that.

    Returns a float32 scalar; it is computed in float32 even under autocast.

    Raises ValueError if the shapes do not match or the reduction is unknown.

    Example::

        loss = nt_xent(head(backbone(first_views)), head(backbone(second_views)), temperature=0.1)
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(f"expected embeddings [n, D] of two views, found {list(z1.shape)} and {list(z2.shape)}")
    if reduction not in ("sum_of_views", "mean"):
        raise ValueError(f"reduction: expected sum_of_views or mean, found {reduction!r}")
    with torch.autocast(z1.device.type, enabled=False):
        first, second = F.normalize(z1.float()), F.normalize(z2.float())
        (all_first, own_rows), (all_second, _) = gather_embeddings(first), gather_embeddings(second)
        candidates = torch.cat([all_first, all_second])
        first_rows, second_rows = own_rows, own_rows + len(all_first)
        loss = _cross_entropy(first, candidates, first_rows, positives=second_rows, temperature=temperature)
        loss = loss + _cross_entropy(second, candidates, second_rows, positives=first_rows, temperature=temperature)
        return loss if reduction == "sum_of_views" else loss / 2


def _cross_entropy(
    anchors: Tensor, candidates: Tensor, anchor_rows: Tensor, positives: Tensor, temperature: float
) -> Tensor:
    """Return the mean loss of anchors; `anchor_rows` are their own rows of the candidates, which are excluded."""
    logits = anchors @ candidates.T / temperature
    logits = logits.scatter(1, anchor_rows[:, None], -torch.inf)
    return F.cross_entropy(logits, positives)


def gather_embeddings(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the embeddings of all ranks, with gradients to the rank that computed them.

    Without an initialized process group, returns the embeddings unchanged.

    Args:
        embeddings: this rank's embeddings, [n, D]; n and D must be the same on all ranks.

    Returns the embeddings of all ranks in the order of ranks, [n * ranks, D], and the rows that hold this rank's
    embeddings, int64 [n].
    """
    own_rows = torch.arange(len(embeddings), device=embeddings.device)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return embeddings, own_rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated since torch 2.15, but its replacement is private
        gathered = torch.cat(torch.distributed.nn.functional.all_gather(embeddings))
    return gathered, own_rows + torch.distributed.get_rank() * len(embeddings)


class VICRegTerms(NamedTuple):
    """VICReg's loss and its three terms without their weights, float32 scalars.

    Attributes:
        loss: weighted sum of the terms.
        invariance: mean squared difference of the two views' embeddings.
        variance: mean over views and dimensions of max(0, 1 - standard deviation).
        covariance: sum over both views of the squared covariances of different dimensions, divided by the number of
            dimensions.
    """

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_loss(
    z1: Tensor,
    z2: Tensor,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> VICRegTerms:
    """Compute VICReg's loss (Bardes et al. 2022, eq. 6), with the variance term averaged over views as in their code.

    Variances and covariances are those of the embeddings of all ranks, gathered with gradients as in `nt_xent`. The
    values are this rank's part; their means over ranks are those of one process with all images.

    Args:
        z1: embeddings of the first view of n images, [n, D]; there must be two images or more over all ranks.
        z2: embeddings of the second view of the same images, [n, D].
        invariance_weight: lambda.
        variance_weight: mu.
        covariance_weight: nu.

    Returns the loss and its terms; they are computed in float32 even under autocast.

    Raises ValueError if the shapes do not match.
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(f"expected embeddings [n, D] of two views, found {list(z1.shape)} and {list(z2.shape)}")
    with torch.autocast(z1.device.type, enabled=False):
        first, second = z1.float(), z2.float()
        invariance = F.mse_loss(first, second)
        views = gather_embeddings(first)[0], gather_embeddings(second)[0]
        variance = torch.stack([_variance_term(view) for view in views]).mean()
        covariance = torch.stack([_covariance_term(view) for view in views]).sum()
        loss = invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
    return VICRegTerms(loss, invariance, variance, covariance)


def _variance_term(embeddings: Tensor) -> Tensor:
    """Return the mean over dimensions of max(0, 1 - standard deviation)."""
    return F.relu(1 - (embeddings.var(0) + VICREG_EPSILON).sqrt()).mean()


def _covariance_term(embeddings: Tensor) -> Tensor:
    """Return the sum of the squared covariances of different dimensions, divided by the number of dimensions."""
    centered = embeddings - embeddings.mean(0)
    covariances = centered.T @ centered / (len(embeddings) - 1)
    return (covariances.square().sum() - covariances.diagonal().square().sum()) / len(covariances)


def negative_cosine_similarity(prediction: Tensor, target: Tensor) -> Tensor:
    """Compute the mean over images of the negative cosine similarity; the target gets no gradient.

    BYOL's loss of one direction (Grill et al. 2020, eq. 2) is 2 plus twice this value.

    Takes [n, D] each. Returns a float32 scalar, computed in float32 even under autocast.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        return -F.cosine_similarity(prediction.float(), target.detach().float()).mean()


class AttentionTerms(NamedTuple):
    """The attention loss and its two terms, float32 scalars: means over images.

    Attributes:
        loss: weighted difference of the terms.
        kld: mean Kullback-Leibler divergence.
        nss: mean normalized scanpath saliency.
    """

    loss: Tensor
    kld: Tensor
    nss: Tensor


def attention_loss(
    prediction: Tensor, target: Tensor, points: Sequence[Any], kld_weight: float = 1.0, nss_weight: float = 0.1
) -> AttentionTerms:
    """Compute the attention loss, lambda * KLD - beta * NSS (paper eq. 3).

    Images without points have no NSS and are excluded from its mean; the mean is 0 if no image has points. With several
    ranks, the values are this rank's part; their means over ranks are those of the whole batch, even if ranks differ in
    the number of images with points.

    Args:
        prediction: predicted attention maps, [B, H, W], non-negative.
        target: maps of the data set, [B, H, W], non-negative.
        points: gaze points of each image, B arrays or tensors [n, 2 or more], whose first columns are x and y in
            [0, 1].
        kld_weight: lambda.
        nss_weight: beta.

    Returns loss, KLD and NSS; they are computed in float32 even under autocast.

    Raises ValueError if a map contains NaN, infinity or a negative value, or if a point is outside of [0, 1].
    """
    with torch.autocast(prediction.device.type, enabled=False):
        mean_kld = kld(prediction.float(), target.float()).mean()
        scores = nss(prediction.float(), points)
        has_points = ~scores.isnan()
        images_with_points = _mean_over_ranks(has_points.sum()).clamp(min=1e-9)
        mean_nss = torch.where(has_points, scores, 0).sum() / images_with_points
    return AttentionTerms(kld_weight * mean_kld - nss_weight * mean_nss, mean_kld, mean_nss)


def _mean_over_ranks(count: Tensor) -> Tensor:
    """Return the mean of a count over all ranks, as float32."""
    mean = count.float()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean
