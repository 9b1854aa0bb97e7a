"""The attention block of two rows of Table 1 (paper 4.3): it masks the last stage's map before pooling."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.backbone import Features

SQUEEZE = 4  # ratio of the last stage's channels to the hidden ones, as in a ResNet bottleneck; not given by the paper


class AttentionBlock(nn.Module):
    """Mask the last stage's map F: a = sigmoid(conv1x1(ReLU(conv3x3(F)))), pooled features = GAP(a * F).

    The mask a has one channel, which weights all channels of F.

    Args:
        channels: number of channels of the last stage.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, channels // SQUEEZE, 3, padding=1)
        self.mask = nn.Conv2d(channels // SQUEEZE, 1, 1)

    def forward(self, features: Features) -> Features:
        """Return features with the same stages, pooled under the mask, and the mask [B, h, w] in (0, 1)."""
        last = features.stages[-1]
        mask = self.mask(F.relu(self.hidden(last))).sigmoid()
        return Features((mask * last).mean((2, 3)), features.stages, mask[:, 0])


class MaskReadout(nn.Module):
    """Read-out that takes the block's mask as the predicted attention map."""

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Resize the mask bilinearly to `size` (height, width): [B, height, width] in (0, 1)."""
        assert features.mask is not None
        return F.interpolate(features.mask[:, None].float(), size, mode="bilinear")[:, 0]
