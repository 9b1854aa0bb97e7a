"""The attention branch (paper 3.3): from a backbone's last three stages to a map of where people look."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.backbone import Features

Selection = Literal["gap_argmax", "channel_max", "channel_mean"]
STAGES = 3


class AttentionReadout(nn.Module):
    """One spatial map of each stage, resized and combined linearly: 4 parameters; a sigmoid makes it non-negative.

    `select` says which map: of the channel whose mean over the image is highest (paper 3.3), the maximum over channels
    at each place, or their mean.
    """

    def __init__(self, select: Selection = "gap_argmax") -> None:
        super().__init__()
        self.select = select
        self.combine = nn.Conv2d(STAGES, 1, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Features of B images -> map [B, height, width] in (0, 1)."""
        maps = [F.interpolate(select_map(stage, self.select), size, mode="bilinear") for stage in features.stages]
        combined: Tensor = self.combine(torch.cat(maps, 1))
        return combined[:, 0].float().sigmoid()


def select_map(stage: Tensor, select: Selection) -> Tensor:
    """The map that speaks for a stage: [B, c, h, w] -> [B, 1, h, w]."""
    if select == "channel_max":
        return stage.amax(1, keepdim=True)
    if select == "channel_mean":
        return stage.mean(1, keepdim=True)
    best = stage.mean((2, 3)).argmax(1)
    return stage.gather(1, best.view(-1, 1, 1, 1).expand(-1, 1, *stage.shape[2:]))
