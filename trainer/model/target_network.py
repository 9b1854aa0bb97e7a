"""The target network of BYOL (Grill et al. 2020): a moving average of the network that is trained."""

import copy
import itertools
import math

import torch
from torch import Tensor, nn

from trainer.model.backbone import Backbone

BASE_MOMENTUM = 0.996


class TargetNetwork(nn.Module):
    """Copy of a backbone and a projector whose weights follow those of the originals.

    Its weights get no gradient. Like the original code, it normalizes by the statistics of the batch while it is in
    training mode; the running statistics of its batch norms are its own, and nothing uses them.

    Args:
        backbone: the network to copy.
        projector: head to copy, on the backbone's pooled features.
    """

    def __init__(self, backbone: Backbone, projector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.projector = copy.deepcopy(backbone), copy.deepcopy(projector)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Compute projections [B, D] of images, float [B, 3, S, S] in [0, 1], without gradient."""
        projections: Tensor = self.projector(self.backbone(images).pooled)
        return projections

    @torch.no_grad()
    def follow(self, backbone: Backbone, projector: nn.Module, momentum: float) -> None:
        """Move the weights to `momentum` * own + (1 - `momentum`) * those of the originals."""
        originals = itertools.chain(backbone.parameters(), projector.parameters())
        torch._foreach_lerp_(list(self.parameters()), list(originals), 1 - momentum)


def target_momentum(progress: float) -> float:
    """Return the momentum at a point of the run, from 0.996 at its start (`progress` 0) by a cosine to 1 (1)."""
    return 1 - (1 - BASE_MOMENTUM) * (math.cos(math.pi * progress) + 1) / 2
