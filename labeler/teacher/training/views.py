"""Augmentation of training images: random crop, horizontal flip and color jitter.

Crops and flips move the fixations with the image. The paper mentions no augmentation of the teacher's training images.
A view depends only on the random generator that draws it.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labeler.teacher.model import resize_to_input

LUMA = (0.299, 0.587, 0.114)  # weights of R, G, B in gray (ITU-R BT.601)


class View(NamedTuple):
    """Augmentation of one image: crop (in [0, 1] of the image), horizontal flip and color factors."""

    left: float
    top: float
    width: float
    height: float
    flipped: bool
    color_factors: tuple[float, float, float]  # brightness, contrast, saturation; 1 changes nothing


FULL_VIEW = View(0.0, 0.0, 1.0, 1.0, False, (1.0, 1.0, 1.0))


def draw_view(generator: np.random.Generator, min_crop: float, color_jitter: float) -> View:
    """Draw a random view.

    Args:
        generator: source of all randomness.
        min_crop: smallest fraction of either side of the image that a crop shows.
        color_jitter: color factors lie in [1 - color_jitter, 1 + color_jitter].
    """
    width, height = generator.uniform(min_crop, 1, 2)
    left, top = generator.uniform(0, 1, 2) * (1 - width, 1 - height)
    brightness, contrast, saturation = generator.uniform(1 - color_jitter, 1 + color_jitter, 3)
    return View(left, top, width, height, bool(generator.random() < 0.5), (brightness, contrast, saturation))


def crop_pixels(pixels: Tensor, view: View) -> Tensor:
    """Crop, resize and flip an image without changing its colors: uint8 [3, H, W] -> uint8 [3, 480, 640]."""
    height, width = pixels.shape[1:]
    left, right = round(view.left * width), round((view.left + view.width) * width)
    top, bottom = round(view.top * height), round((view.top + view.height) * height)
    cropped = pixels[:, top : max(bottom, top + 1), left : max(right, left + 1)]
    resized = resize_to_input(cropped.contiguous())
    return resized.flip(2) if view.flipped else resized


def crop_fixations(fixations: np.ndarray, view: View) -> np.ndarray:
    """Return the fixations that a view shows, [n, 2] of x, y in [0, 1] of the image -> [m, 2] of the view."""
    positions = (fixations - (view.left, view.top)) / (view.width, view.height)
    positions = positions[np.all((positions >= 0) & (positions <= 1), axis=1)]
    return np.column_stack([1 - positions[:, 0], positions[:, 1]]) if view.flipped else positions


def adjust_colors(images: Tensor, color_factors: Tensor) -> Tensor:
    """Apply the color factors of each image's view: [B, 3, H, W] in [0, 1], [B, 3] -> [B, 3, H, W] in [0, 1].

    Saturation changes first, then contrast (around the image's mean gray), then brightness.
    """
    brightness, contrast, saturation = color_factors.to(images).view(-1, 3, 1, 1, 1).unbind(1)
    gray = (images * torch.tensor(LUMA).to(images)[:, None, None]).sum(1, keepdim=True)
    saturated = torch.lerp(gray, images, saturation)
    contrasted = torch.lerp(gray.mean((2, 3), keepdim=True), saturated, contrast)
    return (contrasted * brightness).clamp(0, 1)
