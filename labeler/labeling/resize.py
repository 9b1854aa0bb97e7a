"""Resizing of a batch of images to the teacher's input by matrix products, to the same bytes as on a CPU.

PyTorch resizes uint8 images on a CPU with integer weights, and rounds after each axis. Up to `MAX_SIDE`, sums of such
products are integers that float32 holds exactly, if pixels are counted from the middle of their range. So the order of
additions does not matter, and a GPU computes the same pixels.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.images.resampling import bicubic_weights, group_by_size
from labeler.teacher.model import INPUT_SIZE

WEIGHT_BITS = 15  # of PyTorch's integer weights, besides their sign
MIDDLE = 128  # of the range of pixels
MAX_SIDE = 1800  # pixels; larger images are resized on the CPU
CANVAS_PIXELS = 64 * 512 * 512  # that are resized at once
CACHED_FILTERS = 512  # of about 1 MB each


class Filter(NamedTuple):
    """The weights of each output pixel along one axis, and what is added to the weighted sums to round them.

    Both are integers in float32 [target, source] and [target]; `scale` is the sum of a pixel's weights, a power of two.
    """

    weights: Tensor
    bias: Tensor
    scale: int


def resize_batch(images: Sequence[Tensor], count: int) -> Tensor:
    """Resize images to the teacher's input size, ignoring their aspect ratios.

    The result is that of `labeler.teacher.model.resize_to_input` on a CPU, to the last bit, for images with sides of
    up to `MAX_SIDE` pixels.

    Args:
        images: uint8 [3, H, W] each, of any sizes and on one device.
        count: number of images in the result; those that are missing are black.

    Returns float32 [count, 3, 480, 640] with integer values from 0 to 255.
    """
    device = images[0].device
    resized = torch.zeros(count, 3, *INPUT_SIZE, device=device)
    for indices in group_by_size(images, CANVAS_PIXELS):
        resized[torch.tensor(indices, device=device)] = _resize_group([images[index] for index in indices])
    return resized


def _resize_group(images: Sequence[Tensor]) -> Tensor:
    """Resize images [3, H, W] to [B, 3, 480, 640], in a canvas that holds each of them."""
    device, batch = images[0].device, len(images)
    sides = [max(image.shape[axis] for image in images) for axis in (1, 2)]
    canvas = torch.zeros(batch, 3, *sides, device=device)
    for index, image in enumerate(images):
        height, width = image.shape[1:]
        canvas[index, :, :height, :width] = image.float() - MIDDLE
    vertical, horizontal = (
        _stack_filters([_make_filter(image.shape[axis], target, device) for image in images], side)
        for axis, target, side in zip((1, 2), INPUT_SIZE, sides, strict=True)
    )
    columns = _round(canvas @ horizontal.weights.mT, horizontal.bias, horizontal.scale)
    return _round(vertical.weights @ (columns - MIDDLE), vertical.bias.mT, vertical.scale)


class FilterBatch(NamedTuple):
    """The filters of several images along one axis: [B, 1, target, side], [B, 1, 1, target] and [B, 1, 1, 1]."""

    weights: Tensor
    bias: Tensor
    scale: Tensor


def _stack_filters(filters: Sequence[Filter], side: int) -> FilterBatch:
    """Stack filters, extended by weights of zero to `side` input pixels."""
    weights = torch.stack([F.pad(item.weights, (0, side - item.weights.shape[1])) for item in filters])
    bias = torch.stack([item.bias for item in filters])
    scale = torch.tensor([float(item.scale) for item in filters], device=bias.device)
    return FilterBatch(weights[:, None], bias[:, None, None], scale[:, None, None, None])


def _round(sums: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
    """Divide weighted sums by the scale of their weights, and round them to 0, ..., 255."""
    return ((sums + bias) / scale).floor_().clamp_(0, 255)


@functools.lru_cache(CACHED_FILTERS)
def _make_filter(source: int, target: int, device: torch.device) -> Filter:
    """Return the bicubic, antialiased filter that resizes an axis of `source` pixels to `target` pixels."""
    start, length = torch.zeros(1, dtype=torch.float64), torch.tensor([source], dtype=torch.float64)
    weights = bicubic_weights(start, length, target, source)[0]
    precision = 0
    while int(0.5 + weights.max().item() * 2 ** (precision + 1)) < 2**WEIGHT_BITS:
        precision += 1
    scale = 2**precision
    scaled = weights * scale
    integers = (scaled + scaled.sign() / 2).trunc().float().to(device)
    return Filter(integers, MIDDLE * integers.sum(1) + scale // 2, scale)
