"""Resizing as matrix products: the weights of a bicubic filter, and groups of images that share a canvas.

Antialiased resizing is linear and separable, so `vertical @ image @ horizontal.T` resizes an image, and two products
resize a whole batch on a GPU.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CUBIC = -0.5  # parameter of the bicubic filter, as in Pillow and in PyTorch with antialias=True
CUBIC_RADIUS = 2.0  # in input pixels, or output pixels if these are larger


def bicubic_weights(starts: Tensor, lengths: Tensor, target: int, side: int) -> Tensor:
    """Return the weights that resize n intervals of an axis to `target` pixels, bicubic and antialiased.

    They are those of `torch.nn.functional.interpolate(mode="bicubic", antialias=True)`. Their dtype and device are
    those of `lengths`.

    Args:
        starts: first pixel of each interval, float [n].
        lengths: number of pixels of each interval, float [n].
        target: number of pixels of the result.
        side: number of pixels of the axis.

    Returns [n, target, side]; weights outside of an interval are 0.
    """
    starts, lengths = starts[:, None, None], lengths[:, None, None]
    scale = lengths / target
    stretch = scale.clamp(min=1)  # of the filter, if the output pixels are larger than those of the input
    center = scale * (torch.arange(target, dtype=lengths.dtype, device=lengths.device)[:, None] + 0.5)
    first = (center - CUBIC_RADIUS * stretch + 0.5).trunc().clamp(min=0)
    last = (center + CUBIC_RADIUS * stretch + 0.5).trunc().minimum(lengths)
    position = torch.arange(side, dtype=lengths.dtype, device=lengths.device) - starts
    distance = (position - center + 0.5).mul(1 / stretch).abs()
    weights = _cubic(distance).where((position >= first) & (position < last), 0)
    return weights / weights.sum(-1, keepdim=True)


def group_by_size(images: Sequence[Tensor], canvas_pixels: int) -> Iterator[list[int]]:
    """Yield the indices of images [..., H, W] that fit together into a canvas, or of single larger ones.

    A canvas has the largest height and the largest width of its images, for each of them. `canvas_pixels` limits its
    pixels in all images, so that memory does not depend on the sizes of the images.
    """
    group: list[int] = []
    sides = (0, 0)
    for index in sorted(range(len(images)), key=lambda index: images[index].shape[-2:].numel()):
        height, width = images[index].shape[-2:]
        larger = max(sides[0], height), max(sides[1], width)
        if group and (len(group) + 1) * larger[0] * larger[1] > canvas_pixels:
            yield group
            group, larger = [], (height, width)
        group, sides = [*group, index], larger
    yield group


def _cubic(distance: Tensor) -> Tensor:
    """Return the bicubic filter at non-negative distances, in pixels (Keys 1981)."""
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * CUBIC
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
