"""ContraCAM (Mo et al. 2021), without its iterations: a map of what distinguishes an image from others in its batch.

For image n of a batch, with embeddings z of unit length::

    score_n = log(exp(z_n . z'_n) / sum over k != n of exp(z_n . z'_k))
    weights = ReLU(spatial mean of d score_n / dA)
    map_n = ReLU(sum over channels of weights * A)

The map is then scaled to [0, 1] and resized. A is the last stage's map of the clean image, and z its normalized
projection. z' are the same embeddings with stopped gradient, as in the first iteration of the authors' method, so that
the map depends on clean images only, in training and in evaluation. With several ranks, k runs over the images of all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.losses import gather_embeddings
from trainer.model.backbone import Features
from trainer.model.heads import ProjectionHead


class ContraCAM(nn.Module):
    """Read-out that computes ContraCAM's map instead of predicting one.

    While the head's batch norm is in training mode, it couples the images of a batch, so the channel weights of one
    image contain small contributions of the other images' scores.

    Args:
        head: projection head of the contrastive objective.
        second_order: whether gradients also flow through the channel weights, which are constants otherwise.
    """

    def __init__(self, head: ProjectionHead, second_order: bool = False) -> None:
        super().__init__()
        self.head, self.second_order = head, second_order

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Compute maps of a given size (height, width): float32 [B, height, width] in [0, 1].

        Each map depends on all images of the batch. Raises ValueError if there is only one.
        """
        last = features.stages[-1]
        weights = self._channel_weights(features.pooled) / (last.shape[2] * last.shape[3])
        weighted_sum = torch.einsum("bc,bchw->bhw", weights.to(last), last)
        return F.interpolate(scale_maps(weighted_sum)[:, None], size, mode="bilinear")[:, 0]

    def _channel_weights(self, pooled: Tensor) -> Tensor:
        """Return ReLU(d score / d pooled), [B, C].

        `pooled` is the spatial mean of A, so d score / dA is this gradient divided by the number of positions.
        """
        with torch.enable_grad():
            pooled = pooled if self.second_order and pooled.requires_grad else pooled.detach().requires_grad_()
            score = contrastive_scores(self.head(pooled)).sum()
            (gradient,) = torch.autograd.grad(score, pooled, create_graph=self.second_order)
        return gradient.relu()


def contrastive_scores(projections: Tensor) -> Tensor:
    """Return the score of each image, [B], from projections [B, D]: how well it is distinguished from all others.

    Raises ValueError if there is only one image over all ranks.
    """
    with torch.autocast(projections.device.type, enabled=False):
        anchors = F.normalize(projections.float())
        keys, own_rows = gather_embeddings(anchors.detach())
        if len(keys) < 2:
            raise ValueError("ContraCAM compares the images of a batch: expected two or more at once, found one")
        similarities = anchors @ keys.T
        others = similarities.scatter(1, own_rows[:, None], -torch.inf)
        return similarities.gather(1, own_rows[:, None])[:, 0] - others.logsumexp(1)


def scale_maps(maps: Tensor) -> Tensor:
    """Set negative values to 0 and scale each map to [0, 1]: [B, h, w] -> float32 [B, h, w]; constant maps become 0.

    Computed in float64: where a map is 0, KLD's gradient is as large as 1 / its epsilon, and such gradients cancel
    here only in that precision.
    """
    maps = maps.double().relu()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0).float()
