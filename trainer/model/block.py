"""An attention block after the last stage, which masks what is pooled (Table 1's rows of an explicit mask)."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.backbone import Features
from trainer.objectives.base import EncodedBatch, LossTerms, Objective, Outputs

SQUEEZE = 4  # channels of the last stage to one of the block's; the paper is silent, a bottleneck of ResNet does so


class AttentionBlock(nn.Module):
    """a = sigmoid(conv1x1(ReLU(conv3x3(F)))), h = GAP(a * F): one mask for all channels F of the last stage."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels // SQUEEZE, 3, padding=1)
        self.mask = nn.Conv2d(channels // SQUEEZE, 1, 1)

    def forward(self, features: Features) -> Features:
        """The same maps of the stages, with the mask, and pooled under it."""
        last = features.stages[-1]
        mask = self.mask(F.relu(self.hidden(last))).sigmoid()
        return Features((mask * last).mean((2, 3)), features.stages, mask[:, 0])


class MaskReadout(nn.Module):
    """The block's mask is the prediction of where people look."""

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Features of B images -> map [B, height, width] in (0, 1)."""
        assert features.mask is not None
        return F.interpolate(features.mask[:, None].float(), size, mode="bilinear")[:, 0]


class MaskMonitor(Objective):
    """Log how much of the views the block lets through. It adds nothing to the loss; its mask can be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = MaskReadout()

    def forward(self, seen: EncodedBatch) -> Outputs:
        assert seen.views.mask is not None
        return {"mask": seen.views.mask.detach().mean((1, 2))}

    def terms(self, outputs: Outputs, inputs: object) -> LossTerms:
        openness = outputs["mask"].mean()
        return LossTerms(openness.new_zeros(()), {"mask_mean": openness})

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor:
        predicted: Tensor = self.readout(clean, size)
        return predicted
