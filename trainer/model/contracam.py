"""ContraCAM (Mo et al. 2021, without iterating): where a contrastive model looks to tell an image from all others.

For an image n of a batch with embeddings z of length 1:
    score_n = log(exp(z_n . z'_n) / sum over k != n of exp(z_n . z'_k))
    weights = ReLU(spatial mean of d score_n / dA),  map = ReLU(sum over channels of weights * A),
scaled to 0 ... 1 and enlarged. A is the last stage's map of the clean image, z its projection. z' are the projections
of the same clean images with their gradient stopped, as in the authors' first iteration: so that the map depends on
clean images alone, in training as in evaluation. With several ranks the images of all of them are compared.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.losses import gather_embeddings
from trainer.model.backbone import Features
from trainer.model.heads import ProjectionHead


class ContraCAM(nn.Module):
    """ContraCAM's map in place of a read-out. `head` is the projection head of the contrastive part.

    The channels' weights are constants, unless `second_order`: then the loss also changes how they come about. While
    the head's batch norm learns from a batch, the slope of one image's score holds a little of all others'.
    """

    def __init__(self, head: ProjectionHead, second_order: bool = False) -> None:
        super().__init__()
        self.head, self.second_order = head, second_order

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Features of B images -> map [B, height, width] in [0, 1]; it depends on all of the batch.

        Raises ValueError where there is only one image: there is nothing to tell it from.
        """
        last = features.stages[-1]
        weights = self._channel_weights(features.pooled) / (last.shape[2] * last.shape[3])
        summed = torch.einsum("bc,bchw->bhw", weights.to(last), last)
        return F.interpolate(scale_maps(summed)[:, None], size, mode="bilinear")[:, 0]

    def _channel_weights(self, pooled: Tensor) -> Tensor:
        """ReLU(d score / d pooled), [B, C]: pooling is the spatial mean, so this is all there is to d score / dA."""
        with torch.enable_grad():
            pooled = pooled if self.second_order and pooled.requires_grad else pooled.detach().requires_grad_()
            score = contrastive_scores(self.head(pooled)).sum()
            (slope,) = torch.autograd.grad(score, pooled, create_graph=self.second_order)
        return slope.relu()


def contrastive_scores(projections: Tensor) -> Tensor:
    """How well each image is told from all others: [B, D] -> [B]. Raises ValueError where there is only one."""
    with torch.autocast(projections.device.type, enabled=False):
        anchors = F.normalize(projections.float())
        keys, own = gather_embeddings(anchors.detach())
        if len(keys) < 2:
            raise ValueError("ContraCAM tells images apart: expected two or more at once, found one")
        similar = anchors @ keys.T
        others = similar.scatter(1, own[:, None], -torch.inf)
        return similar.gather(1, own[:, None])[:, 0] - others.logsumexp(1)


def scale_maps(maps: Tensor) -> Tensor:
    """What is positive, scaled to 0 ... 1; 0 where a map is constant. [B, h, w] -> float32, alike.

    In float64: KLD's slope where a map is 0 is 1 / its epsilon, and cancels only there.
    """
    maps = maps.double().relu()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0).float()
