"""Teachers whose maps a test can predict, for `--teacher tests.support.simple_teachers:NAME`."""

import torch
from torch import Tensor, nn

DARK = 0.02  # brightness below which FaultyInTheDark fails


class Brightness(nn.Module):
    """The map is the image's brightness, so this is a perfect teacher for images that show human attention maps."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1)


class Flat(nn.Module):
    """The map has the same positive value everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.full_like(images[:, 0], 0.3)


class LogDensity(nn.Module):
    """The map is negative everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1).log() - 1


class FaultyInTheDark(nn.Module):
    """For a dark image the map holds NaN, or an error is raised."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.raises = raises

    def forward(self, images: Tensor) -> Tensor:
        dark = bool(images.mean() < DARK)
        if dark and self.raises:
            raise RuntimeError("too dark for me")
        return images.mean(1) * (torch.nan if dark else 1)


def nan_teacher() -> nn.Module:
    return FaultyInTheDark(raises=False)


def raising_teacher() -> nn.Module:
    return FaultyInTheDark(raises=True)
