"""The parts of a photograph that views show: SimCLR's random crops, and the whole frame.

A crop's area is 0.08 to 1 of the frame's, its ratio 3/4 to 4/3, as torchvision's RandomResizedCrop draws them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10  # to draw a crop that fits


class Crop(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_crop(generator: np.random.Generator, height: int, width: int, area: tuple[float, float] = AREA) -> Crop:
    """A random crop of an image: torchvision's distribution, with its fallback to the middle."""
    for _ in range(TRIES):
        pixels = height * width * generator.uniform(*area)
        ratio = math.exp(generator.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        crop_width, crop_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = generator.integers(height - crop_height + 1), generator.integers(width - crop_width + 1)
            return Crop(int(top), int(left), crop_height, crop_width)
    crop_width = min(width, round(height * RATIO[1]))
    crop_height = min(height, round(width / RATIO[0]))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def crop_and_resize(pixels: Tensor, crop: Crop, size: int) -> Tensor:
    """A crop in the views' size, bicubic and antialiased: uint8 [3, H, W] -> uint8 [3, size, size]."""
    rows = pixels.permute(1, 2, 0)  # as they lie in memory; a batch of one is told apart by its own stride
    part = rows[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return F.interpolate(part[None].permute(0, 3, 1, 2), (size, size), mode="bicubic", antialias=True)[0]


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Images [..., 3, H, W] side by side, channels last in memory, as decoders give them and networks like them."""
    return torch.stack([image.movedim(-3, -1) for image in images]).movedim(-1, -3)


def concat_images(batches: Sequence[Tensor]) -> Tensor:
    """Batches of such images [n, ..., 3, H, W], one after the other, channels last in memory too."""
    return torch.cat([batch.movedim(-3, -1) for batch in batches]).movedim(-1, -3)


def resize_frame(pixels: Tensor, size: int) -> Tensor:
    """The whole frame, stretched: uint8 [3, H, W] -> uint8 [3, size, size]."""
    return crop_and_resize(pixels, Crop(0, 0, *pixels.shape[1:]), size)


def center_crop(pixels: Tensor, size: int, share: float = 0.875) -> Tensor:
    """The middle of the frame as evaluations show it: a square of `share` of the shorter side."""
    height, width = pixels.shape[1:]
    side = max(round(min(height, width) * share), 1)
    return crop_and_resize(pixels, Crop((height - side) // 2, (width - side) // 2, side, side), size)
