"""Regions of an image that the network sees: SimCLR's random crops, the whole frame, and a center crop.

A random crop has by default an area of 0.08 to 1 of the frame's and an aspect ratio of 3/4 to 4/3, with the
distribution of torchvision's RandomResizedCrop.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MIN_AREA = 0.08  # fraction of the frame's area
ASPECT_RANGE = (3 / 4, 4 / 3)  # width / height
MAX_ATTEMPTS = 10  # to draw a crop that fits into the frame
CENTER_FRACTION = 0.875  # of the shorter side: 224 of 256 pixels, as is usual in evaluations


class Crop(NamedTuple):
    """A rectangle in an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def draw_crop(generator: np.random.Generator, height: int, width: int, min_area: float = MIN_AREA) -> Crop:
    """Draw a random crop of an image of the given size, of at least `min_area` of its area.

    If no attempt fits, the crop is the largest one in the middle that has an allowed aspect ratio, as in torchvision.
    """
    for _ in range(MAX_ATTEMPTS):
        pixels = height * width * generator.uniform(min_area, 1.0)
        ratio = math.exp(generator.uniform(math.log(ASPECT_RANGE[0]), math.log(ASPECT_RANGE[1])))
        crop_width, crop_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = generator.integers(height - crop_height + 1), generator.integers(width - crop_width + 1)
            return Crop(int(top), int(left), crop_height, crop_width)
    crop_width = min(width, round(height * ASPECT_RANGE[1]))
    crop_height = min(height, round(width / ASPECT_RANGE[0]))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def crop_and_resize(pixels: Tensor, crop: Crop, size: int) -> Tensor:
    """Resize a crop to a square, bicubic and antialiased: uint8 [3, H, W] -> uint8 [3, size, size]."""
    # Decoded pixels are [H, W, 3] in memory. Adding the batch dimension in that layout gives it a stride that marks
    # the tensor as channels last, which `interpolate` keeps.
    rows = pixels.permute(1, 2, 0)
    region = rows[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return F.interpolate(region[None].permute(0, 3, 1, 2), (size, size), mode="bicubic", antialias=True)[0]


def resize_frame(pixels: Tensor, size: int) -> Tensor:
    """Resize the whole frame to a square, ignoring its aspect ratio: uint8 [3, H, W] -> uint8 [3, size, size]."""
    return crop_and_resize(pixels, Crop(0, 0, *pixels.shape[1:]), size)


def center_crop(pixels: Tensor, size: int, fraction: float = CENTER_FRACTION) -> Tensor:
    """Resize the central square, whose side is `fraction` of the shorter side: uint8 [3, H, W] -> [3, size, size]."""
    height, width = pixels.shape[1:]
    side = max(round(min(height, width) * fraction), 1)
    return crop_and_resize(pixels, Crop((height - side) // 2, (width - side) // 2, side, side), size)


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack n images [..., 3, H, W] to [n, ..., 3, H, W], channels last in memory, as convolutions prefer."""
    return torch.stack([image.movedim(-3, -1) for image in images]).movedim(-1, -3)


def concat_images(batches: Sequence[Tensor]) -> Tensor:
    """Concatenate batches of images [n, ..., 3, H, W] along n, channels last in memory."""
    return torch.cat([batch.movedim(-3, -1) for batch in batches]).movedim(-1, -3)
