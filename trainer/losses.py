"""What is minimised: the contrastive loss over all ranks, and the attention loss."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed
import torch.distributed.nn.functional
import torch.nn.functional as F
from torch import Tensor

from common.saliency import kld, nss

Reduction = Literal["sum_of_views", "mean"]


def nt_xent(z1: Tensor, z2: Tensor, temperature: float = 0.1, reduction: Reduction = "sum_of_views") -> Tensor:
    """SimCLR's normalised, temperature-scaled cross entropy (Chen et al. 2020, eq. 1) -> scalar, fp32.

    z1, z2: embeddings of two views of the same n images, [n, D]; they are normalised here. Each of the 2N anchors has
    2N - 1 candidates, N = n over all ranks, gathered with gradient: where ranks average their gradients, as
    DistributedDataParallel does, the result is that of one process with all N. The value is this rank's part: its mean
    over ranks is the loss. `sum_of_views` adds the two views' means, as the reference does; `mean` is half of it.
    """
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ValueError(f"expected embeddings [n, D] of two views, found {list(z1.shape)} and {list(z2.shape)}")
    if reduction not in ("sum_of_views", "mean"):
        raise ValueError(f"reduction: expected sum_of_views or mean, found {reduction!r}")
    with torch.autocast(z1.device.type, enabled=False):
        first, second = F.normalize(z1.float()), F.normalize(z2.float())
        (all_first, own), (all_second, _) = gather_embeddings(first), gather_embeddings(second)
        candidates = torch.cat([all_first, all_second])
        total = len(all_first)
        losses = [
            _cross_entropy(first, candidates, itself=own, positive=own + total, temperature=temperature),
            _cross_entropy(second, candidates, itself=own + total, positive=own, temperature=temperature),
        ]
        summed = losses[0] + losses[1]
        return summed if reduction == "sum_of_views" else summed / 2


def _cross_entropy(anchors: Tensor, candidates: Tensor, itself: Tensor, positive: Tensor, temperature: float) -> Tensor:
    logits = anchors @ candidates.T / temperature
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    return F.cross_entropy(logits, positive)


def gather_embeddings(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """The embeddings [n, D] of all ranks, rank after rank, and at which rows this rank's are, [n].

    Gradients flow back to the rank that they came from.
    """
    own = torch.arange(len(embeddings), device=embeddings.device)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return embeddings, own
    everybody = torch.cat(torch.distributed.nn.functional.all_gather(embeddings))
    return everybody, own + torch.distributed.get_rank() * len(embeddings)


class AttentionTerms(NamedTuple):
    """The attention loss and its terms, means over images."""

    loss: Tensor
    kld: Tensor
    nss: Tensor


def attention_loss(
    prediction: Tensor, target: Tensor, points: Sequence[Any], kld_weight: float = 1.0, nss_weight: float = 0.1
) -> AttentionTerms:
    """lambda * KLD - beta * NSS (paper eq. 3), fp32.

    prediction, target: [B, H, W], non-negative; points: B arrays [n, 2 or more] of x, y in [0, 1]. An image without
    points is left out of the mean NSS, which is 0 where none has any. Several ranks, whose losses are averaged, divide
    by the images with points of all of them.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        divergence = kld(prediction.float(), target.float()).mean()
        scores = nss(prediction.float(), points)
        scored = ~scores.isnan()
        scanpath = torch.where(scored, scores, 0).sum() / _mean_over_ranks(scored.sum()).clamp(min=1e-9)
    return AttentionTerms(kld_weight * divergence - nss_weight * scanpath, divergence, scanpath)


def _mean_over_ranks(number: Tensor) -> Tensor:
    """Of a count, as float32."""
    mean = number.float()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(mean)
        mean = mean / torch.distributed.get_world_size()
    return mean
