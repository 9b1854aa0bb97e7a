"""Cropping and resizing of a batch of images by two matrix products, for devices on which many small calls are slow."""

from collections.abc import Sequence

import torch
from torch import Tensor

from common.images.resampling import bicubic_weights, group_by_size

CANVAS_PIXELS = 64 * 512 * 512  # of images that are cropped together
MIDDLE = 128  # of the range of pixels; float16 is more precise for values around 0


def crop_batch(images: Sequence[Tensor], crops: Tensor, size: int) -> Tensor:
    """Resize n crops of each image to squares, bicubic and antialiased.

    The result is that of `trainer.data.crops.crop_and_resize` up to rounding, at most 2 of 255: both clamp the values
    after each axis. The products are computed in float16 on GPUs, and in float32 on CPUs.

    Args:
        images: B images of any sizes, uint8 [3, H, W] each, on one device.
        crops: top, left, height and width of each crop in pixels, [B, n, 4].
        size: side of the squares in pixels.

    Returns uint8 [B, n, 3, size, size], channels last in memory.
    """
    device, (batch, count, _) = images[0].device, crops.shape
    result = torch.empty(batch, count, size, size, 3, dtype=torch.uint8, device=device).movedim(-1, -3)
    crops = crops.to(device, torch.float32)
    for indices in group_by_size(images, CANVAS_PIXELS):
        rows = torch.tensor(indices, device=device)
        result[rows] = _crop_group([images[index] for index in indices], crops[rows], size)
    return result


def _crop_group(images: Sequence[Tensor], crops: Tensor, size: int) -> Tensor:
    """Crop images that fit together into a canvas: uint8 [B, n, 3, size, size]."""
    batch, count = crops.shape[:2]
    canvas = _place_on_canvas(images)
    height, width = canvas.shape[2:]
    top, left, crop_height, crop_width = crops.flatten(0, 1).unbind(1)
    horizontal = bicubic_weights(left, crop_width, size, width).to(canvas).view(batch, count * size, width)
    vertical = bicubic_weights(top, crop_height, size, height).to(canvas).view(batch, count, size, height)
    columns = (canvas.view(batch, 3 * height, width) @ horizontal.mT).clamp_(-MIDDLE, 255 - MIDDLE)
    columns = columns.view(batch, 3, height, count, size).permute(0, 3, 2, 1, 4).flatten(3)  # [B, n, H, 3 * size]
    squares = (vertical @ columns).view(batch, count, size, 3, size).movedim(3, 2)
    return (squares.float() + MIDDLE).round_().clamp_(0, 255).to(torch.uint8)


def _place_on_canvas(images: Sequence[Tensor]) -> Tensor:
    """Return the pixels minus `MIDDLE` in the top left corner of a canvas, [B, 3, H, W], whose other values are any."""
    dtype = torch.float16 if images[0].is_cuda else torch.float32
    if len({image.shape for image in images}) == 1:
        return torch.stack(list(images)).to(dtype) - MIDDLE
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    canvas = torch.zeros(len(images), 3, height, width, dtype=torch.uint8, device=images[0].device)
    for image, place in zip(images, canvas, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas.to(dtype) - MIDDLE
