"""How an image is shown in training: which part of it, mirrored or not, in which colours.

Human attention tolerates this much (paper 3.2 uses flips): where people look moves with the picture. Each view is a
function of its random generator alone.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labeler.teacher.model import resize_to_input

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class View(NamedTuple):
    """A part of the frame as left, top, width, height in [0, 1]; mirrored or not; brightness, contrast, saturation."""

    left: float
    top: float
    width: float
    height: float
    mirrored: bool
    colours: tuple[float, float, float]


WHOLE = View(0.0, 0.0, 1.0, 1.0, False, (1.0, 1.0, 1.0))


def draw_view(generator: np.random.Generator, zoom: float, colour: float) -> View:
    """A random view that shows at least `zoom` of either side; colour factors in 1 - colour ... 1 + colour."""
    width, height = generator.uniform(zoom, 1, 2)
    left, top = generator.uniform(0, 1, 2) * (1 - width, 1 - height)
    brightness, contrast, saturation = generator.uniform(1 - colour, 1 + colour, 3)
    return View(left, top, width, height, bool(generator.random() < 0.5), (brightness, contrast, saturation))


def crop_pixels(pixels: Tensor, view: View) -> Tensor:
    """The part that is shown, in the teacher's size: uint8 [3, H, W] -> uint8 [3, 480, 640]; colours unchanged."""
    height, width = pixels.shape[1:]
    left, right = round(view.left * width), round((view.left + view.width) * width)
    top, bottom = round(view.top * height), round((view.top + view.height) * height)
    shown = resize_to_input(pixels[:, top : max(bottom, top + 1), left : max(right, left + 1)].contiguous())
    return shown.flip(2) if view.mirrored else shown


def crop_points(points: np.ndarray, view: View) -> np.ndarray:
    """The points that are shown, in the view's own frame: [n, 2] of x, y in [0, 1] -> [m, 2]."""
    shown = (points - (view.left, view.top)) / (view.width, view.height)
    shown = shown[np.all((shown >= 0) & (shown <= 1), axis=1)]
    return np.column_stack([1 - shown[:, 0], shown[:, 1]]) if view.mirrored else shown


def adjust_colors(images: Tensor, colours: Tensor) -> Tensor:
    """Change saturation, contrast (about the mean grey), then brightness: [B, 3, H, W] in [0, 1], [B, 3] -> alike."""
    brightness, contrast, saturation = colours.to(images).view(-1, 3, 1, 1, 1).unbind(1)
    grey = (images * torch.tensor(LUMA).to(images)[:, None, None]).sum(1, keepdim=True)
    saturated = torch.lerp(grey, images, saturation)
    contrasted = torch.lerp(grey.mean((2, 3), keepdim=True), saturated, contrast)
    return (contrasted * brightness).clamp(0, 1)
