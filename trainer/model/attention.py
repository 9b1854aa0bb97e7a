"""The attention branch (paper 3.3): a map of human attention, predicted from a backbone's last three stages."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.backbone import Features

Selection = Literal["gap_argmax", "channel_max", "channel_mean"]
STAGES = 3


class AttentionReadout(nn.Module):
    """Linear combination of one map per stage, followed by a sigmoid; it has 4 parameters.

    The sigmoid, which makes the map non-negative as KLD requires, is not part of the paper's read-out.

    Args:
        select: how the feature channels of a stage become one map; see `select_map`.
    """

    def __init__(self, select: Selection = "gap_argmax") -> None:
        super().__init__()
        self.select = select
        self.combine = nn.Conv2d(STAGES, 1, 1)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Predict attention maps of a given size (height, width): float32 [B, height, width] in (0, 1)."""
        combined: Tensor = self.combine(stack_stage_maps(features, self.select, size))
        return combined[:, 0].float().sigmoid()


def stack_stage_maps(features: Features, select: Selection, size: tuple[int, int]) -> Tensor:
    """Return the maps that a read-out combines, one per stage, resized to (height, width): [B, 3, height, width]."""
    maps = [F.interpolate(select_map(stage, select), size, mode="bilinear") for stage in features.stages]
    return torch.cat(maps, 1)


def select_map(stage: Tensor, select: Selection) -> Tensor:
    """Reduce the feature maps of a stage to one map per image: [B, c, h, w] -> [B, 1, h, w].

    `gap_argmax` takes the channel with the highest spatial mean (paper 3.3), `channel_max` the maximum over channels at
    each position, `channel_mean` their mean.
    """
    if select == "channel_max":
        return stage.amax(1, keepdim=True)
    if select == "channel_mean":
        return stage.mean(1, keepdim=True)
    best = stage.mean((2, 3)).argmax(1)
    return stage.gather(1, best.view(-1, 1, 1, 1).expand(-1, 1, *stage.shape[2:]))
