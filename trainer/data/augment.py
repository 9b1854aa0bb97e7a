"""SimCLR's augmentation on the device: flip, colour jitter, grey, blur, each image by parameters of its own.

The worker draws the parameters with the crops, from the seed, the epoch and the sample; the device applies them to the
whole batch at once. Equal in distribution to torchvision's RandomHorizontalFlip(0.5), RandomApply(ColorJitter(0.8, 0.8,
0.8, 0.2), 0.8), RandomGrayscale(0.2) and RandomApply(GaussianBlur(sigma=(0.1, 2)), 0.5).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FLIP, JITTER, GREY, BLUR = 0.5, 0.8, 0.2, 0.5  # probabilities
BRIGHTNESS = CONTRAST = SATURATION = 0.8  # factors between 1 - x and 1 + x
HUE = 0.2  # turns of the colour circle, either way
SIGMA = (0.1, 2.0)  # pixels
LUMA = (0.2989, 0.587, 0.114)  # as torchvision's rgb_to_grayscale
OPERATIONS = 4  # brightness, contrast, saturation, hue


class Augmentation(NamedTuple):
    """What happens to one view. `order` is a permutation of brightness, contrast, saturation, hue (0 to 3)."""

    flip: bool
    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, int, int, int]
    grey: bool
    sigma: float  # of the blur, in pixels; 0 for none


Draw = Callable[[np.random.Generator], Augmentation]


def draw_augmentation(generator: np.random.Generator) -> Augmentation:
    """Random parameters of a view."""
    flip, jitter, grey, blur = generator.random(4) < (FLIP, JITTER, GREY, BLUR)
    brightness, contrast, saturation = (generator.uniform(1 - x, 1 + x) for x in (BRIGHTNESS, CONTRAST, SATURATION))
    hue, sigma = generator.uniform(-HUE, HUE), generator.uniform(*SIGMA)
    order = generator.permutation(OPERATIONS).tolist()
    if not jitter:
        brightness, contrast, saturation, hue = 1.0, 1.0, 1.0, 0.0
    return Augmentation(
        bool(flip), brightness, contrast, saturation, hue, tuple(order), bool(grey), sigma if blur else 0.0
    )


def draw_flip(generator: np.random.Generator) -> Augmentation:
    """A flip or none, and nothing else: what supervised classifiers are usually trained with, beside the crop."""
    flip = bool(generator.random() < FLIP)
    return Augmentation(flip, 1.0, 1.0, 1.0, 0.0, (0, 1, 2, 3), False, 0.0)


def pack_parameters(augmentation: Augmentation) -> list[float]:
    """One row of the parameters that `augmented` takes."""
    flip, brightness, contrast, saturation, hue, order, grey, sigma = augmentation
    return [float(flip), brightness, contrast, saturation, hue, *map(float, order), float(grey), sigma]


def augment(images: Tensor, parameters: Tensor) -> Tensor:
    """Apply to uint8 [B, 3, S, S] the parameters [B, 11] of `packed`: float32 [B, 3, S, S] in [0, 1]."""
    flip, order, grey, sigma = parameters[:, 0] > 0, parameters[:, 5:9], parameters[:, 9] > 0, parameters[:, 10]
    views = images.float() / 255
    views = torch.where(flip.view(-1, 1, 1, 1), views.flip(3), views)
    for position in range(OPERATIONS):
        views = _jittered(views, order[:, position], parameters[:, 1:5])
    views = torch.where(grey.view(-1, 1, 1, 1), _luma(views), views)
    return gaussian_blur(views, sigma)


def _jittered(views: Tensor, operation: Tensor, factors: Tensor) -> Tensor:
    """One operation of each image: the rows of a kind are changed together."""
    result = views
    for number, change in enumerate((_brightened, _contrasted, _saturated, _hue_turned)):
        rows = (operation == number).nonzero().flatten()
        result = result.index_copy(0, rows, change(views[rows], factors[rows, number].view(-1, 1, 1, 1)))
    return result


def _brightened(views: Tensor, factor: Tensor) -> Tensor:
    return (views * factor).clamp(0, 1)


def _contrasted(views: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luma(views).mean((1, 2, 3), keepdim=True), views, factor).clamp(0, 1)


def _saturated(views: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_luma(views), views, factor).clamp(0, 1)


def _luma(views: Tensor) -> Tensor:
    """Grey, [B, 1, S, S]."""
    return (views * torch.tensor(LUMA).to(views).view(3, 1, 1)).sum(1, keepdim=True)


def _hue_turned(views: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue in HSV space, as torchvision's adjust_hue: value and saturation stay.

    A channel of a colour with value v and chroma c at hue h (in sixths) is v - c * clamp(min(k, 4 - k), 0, 1) with
    k = (n + h) mod 6 and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = views.unbind(1)
    value = views.amax(1)
    chroma = value - views.amin(1)
    safe = torch.where(chroma > 0, chroma, 1)
    otherwise = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    hue = torch.where(value == red, (green - blue) / safe, otherwise)
    hue = hue + 6 * turns.flatten(1)[:, :, None]
    k = (torch.tensor([5.0, 3.0, 1.0]).to(views).view(3, 1, 1) + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def kernel_size(side: int) -> int:
    """Of the blur: about a tenth of the views' side, odd, at least 3."""
    return max(side // 20 * 2 + 1, 3)


def gaussian_blur(views: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each image with its own sigma [B] in pixels, 0 for none; edges are reflected.

    float [B, 3, S, S] -> alike.
    """
    rows = (sigma > 0).nonzero().flatten()
    if not len(rows):
        return views
    size = kernel_size(views.shape[-1])
    at = torch.arange(size, device=views.device, dtype=views.dtype) - size // 2
    profile = torch.exp(-0.5 * (at / sigma[rows, None].to(views)) ** 2)
    profile = profile / profile.sum(1, keepdim=True)
    some = views[rows].transpose(0, 1)  # [3, b, S, S]: each image is a channel, with a kernel of its own
    some = F.pad(some, (size // 2,) * 4, mode="reflect")
    some = F.conv2d(some, profile[:, None, None, :], groups=len(rows))
    some = F.conv2d(some, profile[:, None, :, None], groups=len(rows))
    return views.index_copy(0, rows, some.transpose(0, 1).contiguous())
