"""Perceptual hashes of images, which are similar for similar images: PDQ, computed in batches from the teacher's input.

PDQ blurs the luminance with two box filters per axis, samples 64 x 64 of its pixels, and states for each of the 16 x 16
lowest frequencies of their cosine transform, without the constant ones, whether its coefficient is above the median.
Source: "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm" (Facebook, 2019) and its reference
implementation, whose hashes those of this module differ from by few bits.

All steps before the median are linear along each axis, so a single matrix per axis performs them. The pixels that PDQ
samples depend on the size of the original image, which therefore selects the matrices.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.images import StoredImage, decode_jpeg
from common.images.orientation import to_upright
from labeler.teacher.model import resize_to_input

LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue
GRID = 64  # samples per axis
FREQUENCIES = 16  # per axis, from half a period per side of the image on
MAX_SIDE = 2048  # of an original; the samples of larger ones lie at the same fractions of the frame
MIN_CONTRAST = 1.0  # in gray levels, of the frequencies together; the hash of a more uniform image would be noise
CACHED_TRANSFORMS = 2048  # of about 40 KB each
BIT_VALUES = [128, 64, 32, 16, 8, 4, 2, 1]


def hash_images(images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Compute the hashes of a batch on its device, uint8 [B, 32]; zeros stand for an image that is almost uniform.

    So does an image that varies along one axis only: PDQ does not use its frequencies.

    Args:
        images: the teacher's input [B, 3, 480, 640] with values from 0 to 255, uint8 or float32.
        sizes: height and width of each image before it was stretched to this size.
    """
    weights = torch.tensor(LUMINANCE, device=images.device)
    luminance = torch.einsum("c,bchw->bhw", weights, images.float())
    rows, columns = (
        torch.stack([_make_transform(min(size[axis], MAX_SIDE), side, images.device) for size in sizes])
        for axis, side in enumerate(luminance.shape[1:])
    )
    coefficients = (rows @ (luminance @ columns.mT)).flatten(1)
    bits = coefficients > coefficients.median(dim=1, keepdim=True).values  # the lower one of two medians
    bits &= coefficients.norm(dim=1, keepdim=True) >= MIN_CONTRAST * GRID
    values = torch.tensor(BIT_VALUES, device=images.device)
    return (bits.flip(1).unflatten(1, (-1, 8)) * values).sum(2).to(torch.uint8)


def format_hash(code: np.ndarray) -> str | None:
    """Format a hash of `hash_images`, uint8 [32], in hexadecimal; None for zeros.

    The last of the 256 bits is that of the lowest frequency, and the frequency along x varies fastest.
    """
    return code.tobytes().hex() if code.any() else None


def hash_jpeg(jpeg: bytes, orientation: int) -> str | None:
    """Compute the hash of a stored JPEG, as when it was labeled on a CPU. Raises ValueError if it is damaged."""
    pixels = to_upright(decode_jpeg(jpeg), orientation).contiguous()
    with torch.inference_mode():
        codes = hash_images(resize_to_input(pixels)[None], [(pixels.shape[1], pixels.shape[2])])
    return format_hash(codes[0].numpy())


def upright_size(image: StoredImage) -> tuple[int, int]:
    """Return height and width of a stored image when it is upright."""
    return (image.height, image.width) if image.orientation < 5 else (image.width, image.height)


@functools.lru_cache(CACHED_TRANSFORMS)
def _make_transform(original: int, side: int, device: torch.device) -> Tensor:
    """Return the matrix [FREQUENCIES, side] from an axis of `side` pixels, resized from `original`, to coefficients.

    The pixels of the original are interpolated linearly from the resized ones.
    """
    transform = _transform_samples(original)
    position = ((torch.arange(original, dtype=torch.float64) + 0.5) * side / original - 0.5).clamp(0, side - 1)
    left = position.floor().long()
    fraction = position - left
    matrix = torch.zeros(FREQUENCIES, side, dtype=torch.float64)
    matrix.index_add_(1, left, transform * (1 - fraction))
    matrix.index_add_(1, (left + 1).clamp(max=side - 1), transform * fraction)
    return matrix.float().to(device)


def _transform_samples(side: int) -> Tensor:
    """Return the matrix [FREQUENCIES, side] that blurs an axis of the original twice, samples and transforms it."""
    window = (side + 2 * GRID - 1) // (2 * GRID)
    after = (window + 2) // 2  # pixels of the window from its center on
    outputs = torch.arange(side)[:, None]
    inside = (outputs - (window - after) <= outputs.mT) & (outputs.mT < outputs + after)
    blur = inside.double() / inside.sum(1, keepdim=True)
    centers = torch.arange(GRID, dtype=torch.float64) + 0.5
    samples = (centers * side / GRID).long()
    frequencies = torch.arange(1, FREQUENCIES + 1, dtype=torch.float64)[:, None]
    cosines = math.sqrt(2 / GRID) * torch.cos(math.pi / GRID * frequencies * centers)  # orthonormal
    return cosines @ blur[samples] @ blur
