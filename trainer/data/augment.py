"""SimCLR's augmentation on the training device: flip, color jitter, grayscale and blur, after the random crop.

The parameters of each view are drawn from the seed, the epoch and the sample when the view is cropped; the device then
augments a whole batch at once. The result has the same distribution as torchvision's RandomHorizontalFlip(0.5),
RandomApply(ColorJitter(0.8, 0.8, 0.8, 0.2), 0.8), RandomGrayscale(0.2) and RandomApply(GaussianBlur(sigma=(0.1, 2)),
0.5), in this order.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.crops import MIN_AREA

FLIP, JITTER, GRAY, BLUR = 0.5, 0.8, 0.2, 0.5  # probabilities
BRIGHTNESS = CONTRAST = SATURATION = 0.8  # x: factors are uniform in [1 - x, 1 + x]
HUE = 0.2  # largest rotation of the color circle in either direction, in turns
SIGMA_RANGE = (0.1, 2.0)  # standard deviation of the blur, in pixels
LUMA_WEIGHTS = (0.2989, 0.587, 0.114)  # of red, green, blue, as in torchvision's rgb_to_grayscale
JITTER_OPERATIONS = 4  # brightness, contrast, saturation, hue


class ViewSettings(NamedTuple):
    """Settings of random views. The defaults are SimCLR's.

    Attributes:
        min_crop: smallest area of a random crop, as a fraction of the frame's.
        jitter_strength: factor of the ranges of brightness, contrast, saturation and hue.
        blur: whether half of the views are blurred.
    """

    min_crop: float = MIN_AREA
    jitter_strength: float = 1.0
    blur: bool = True


SIMCLR_VIEWS = ViewSettings()


class Augmentation(NamedTuple):
    """Parameters of the augmentation of one view.

    Attributes:
        flip: whether to flip horizontally.
        brightness: factor of the brightness; 1 changes nothing.
        contrast: factor of the contrast; 1 changes nothing.
        saturation: factor of the saturation; 1 changes nothing.
        hue: rotation of the color circle in turns, by default -0.2 to 0.2; 0 changes nothing.
        order: order of the four jitter operations: a permutation of brightness (0), contrast (1), saturation (2) and
            hue (3).
        gray: whether to convert to grayscale.
        sigma: standard deviation of the Gaussian blur in pixels; 0 for no blur.
    """

    flip: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, int, int, int]
    gray: bool
    sigma: float


Draw = Callable[[np.random.Generator, ViewSettings], Augmentation]


def draw_augmentation(generator: np.random.Generator, settings: ViewSettings = SIMCLR_VIEWS) -> Augmentation:
    """Draw random parameters of SimCLR's augmentation for one view."""
    strength = settings.jitter_strength
    flip, jitter, gray, blur = generator.random(4) < (FLIP, JITTER, GRAY, BLUR)
    brightness, contrast, saturation = (
        generator.uniform(max(1 - x * strength, 0), 1 + x * strength) for x in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    hue, sigma = generator.uniform(-HUE * strength, HUE * strength), generator.uniform(*SIGMA_RANGE)
    order = generator.permutation(JITTER_OPERATIONS).tolist()
    if not jitter:
        brightness, contrast, saturation, hue = 1.0, 1.0, 1.0, 0.0
    return Augmentation(
        bool(flip),
        brightness,
        contrast,
        saturation,
        hue,
        tuple(order),
        bool(gray),
        sigma if blur and settings.blur else 0.0,
    )


def draw_flip(generator: np.random.Generator, settings: ViewSettings = SIMCLR_VIEWS) -> Augmentation:
    """Draw a horizontal flip with probability 0.5 and nothing else, as is usual for supervised classifiers."""
    flip = bool(generator.random() < FLIP)
    return Augmentation(flip, 1.0, 1.0, 1.0, 0.0, (0, 1, 2, 3), False, 0.0)


def pack_parameters(augmentation: Augmentation) -> list[float]:
    """Return the parameters as a list of 11 numbers: one row of the tensor that `augment` takes."""
    flip, brightness, contrast, saturation, hue, order, gray, sigma = augmentation
    return [float(flip), brightness, contrast, saturation, hue, *map(float, order), float(gray), sigma]


def augment(images: Tensor, parameters: Tensor) -> Tensor:
    """Augment each image of a batch with its own parameters.

    Args:
        images: cropped views, uint8 [B, 3, S, S].
        parameters: one row of `pack_parameters` per image, float [B, 11].

    Returns float32 [B, 3, S, S] in [0, 1].
    """
    flip, order, gray, sigma = parameters[:, 0] > 0, parameters[:, 5:9], parameters[:, 9] > 0, parameters[:, 10]
    views = images.float() / 255
    views = torch.where(flip.view(-1, 1, 1, 1), views.flip(3), views)
    for position in range(JITTER_OPERATIONS):
        views = _jitter(views, order[:, position], parameters[:, 1:5])
    views = torch.where(gray.view(-1, 1, 1, 1), _to_grayscale(views), views)
    return gaussian_blur(views, sigma)


def _jitter(views: Tensor, operation: Tensor, factors: Tensor) -> Tensor:
    """Apply one jitter operation, 0 to 3 in `operation` [B], to each image; images with the same one are batched."""
    result = views
    for number, adjust in enumerate((_adjust_brightness, _adjust_contrast, _adjust_saturation, _adjust_hue)):
        rows = (operation == number).nonzero().flatten()
        result = result.index_copy(0, rows, adjust(views[rows], factors[rows, number].view(-1, 1, 1, 1)))
    return result


def _adjust_brightness(views: Tensor, factor: Tensor) -> Tensor:
    return (views * factor).clamp(0, 1)


def _adjust_contrast(views: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_to_grayscale(views).mean((1, 2, 3), keepdim=True), views, factor).clamp(0, 1)


def _adjust_saturation(views: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_to_grayscale(views), views, factor).clamp(0, 1)


def _to_grayscale(views: Tensor) -> Tensor:
    """Return the luma of each pixel, [B, 1, S, S]."""
    return (views * torch.tensor(LUMA_WEIGHTS).to(views).view(3, 1, 1)).sum(1, keepdim=True)


def _adjust_hue(views: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue in HSV space, as torchvision's adjust_hue; value and saturation stay the same.

    A color with value v, chroma c and hue h, in sixths of a turn, has the channels v - c * clamp(min(k, 4 - k), 0, 1),
    where k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = views.unbind(1)
    value = views.amax(1)
    chroma = value - views.amin(1)
    divisor = torch.where(chroma > 0, chroma, 1)
    hue_if_not_red = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    hue = torch.where(value == red, (green - blue) / divisor, hue_if_not_red)
    hue = hue + 6 * turns.flatten(1)[:, :, None]
    k = (torch.tensor([5.0, 3.0, 1.0]).to(views).view(3, 1, 1) + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def kernel_size(side: int) -> int:
    """Return the size of the blur kernel for views of a given side, both in pixels: about a tenth, odd, at least 3."""
    return max(side // 20 * 2 + 1, 3)


def gaussian_blur(views: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own Gaussian; edges are padded by reflection.

    Args:
        views: float [B, 3, S, S].
        sigma: standard deviations in pixels, [B]; images with 0 are not blurred.

    Returns float [B, 3, S, S].
    """
    rows = (sigma > 0).nonzero().flatten()
    if not len(rows):
        return views
    size = kernel_size(views.shape[-1])
    offsets = torch.arange(size, device=views.device, dtype=views.dtype) - size // 2
    kernels = torch.exp(-0.5 * (offsets / sigma[rows, None].to(views)) ** 2)
    kernels = kernels / kernels.sum(1, keepdim=True)
    blurred = views[rows].transpose(0, 1)  # [3, b, S, S]: a grouped convolution gives each image its own kernel
    blurred = F.pad(blurred, (size // 2,) * 4, mode="reflect")
    blurred = F.conv2d(blurred, kernels[:, None, None, :], groups=len(rows))
    blurred = F.conv2d(blurred, kernels[:, None, :, None], groups=len(rows))
    return views.index_copy(0, rows, blurred.transpose(0, 1).contiguous())
