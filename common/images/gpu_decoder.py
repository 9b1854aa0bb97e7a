"""Decoding of JPEGs on a GPU by nvJPEG, and the check that it gives the pixels of the CPU's decoder."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchcodec.decoders
from torch import Tensor

from common.errors import describe_error
from common.images import decode_jpeg
from common.images.jpeg import BLOCK, hide_exif

CHECK_PHOTOGRAPHS = Path(__file__).with_name("check_photographs")  # baseline JPEGs, with full color and gray

Decode = Callable[[Sequence[bytes]], list[Tensor]]  # from JPEGs to their stored pixels on a device, uint8 [3, H, W]


def decode_with_nvjpeg(jpegs: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """Decode JPEGs on a GPU, ignoring EXIF orientation. Raises RuntimeError or ValueError if one of them is damaged."""
    # The hardware decoder of an H100 ignores its stream: it writes into memory that queued work may still read
    # (pytorch/torchcodec#1634)
    torch.cuda.current_stream(device).synchronize()
    decoded = torchcodec.decoders.decode_jpeg([hide_exif(jpeg) for jpeg in jpegs], device=device)
    return list(decoded)


def find_decoder(device: torch.device) -> tuple[Decode | None, str]:
    """Return the JPEG decoder of a GPU and no warning; or None, and a warning that states why it cannot be used."""
    decode = functools.partial(decode_with_nvjpeg, device=device)
    if difference := explain_difference(decode):
        return None, f"JPEGs are decoded on the CPU, because the GPU's decoder cannot be used: {difference}"
    return decode, ""


def explain_difference(decode: Decode) -> str | None:
    """Decode a few photographs on a device and on the CPU. Returns why the device must not decode; None if it may."""
    jpegs = [path.read_bytes() for path in sorted(CHECK_PHOTOGRAPHS.glob("*.jpg"))]
    try:
        decoded = decode(jpegs)
    except Exception as error:  # a library without nvJPEG, or without a GPU that it knows, raises many types
        return describe_error(error)
    expected = [decode_jpeg(jpeg) for jpeg in jpegs]
    if all(torch.equal(pixels.cpu(), other) for pixels, other in zip(decoded, expected, strict=True)):
        return None
    return "its pixels differ from those of the CPU's decoder"


def is_last_block_uniform(pixels: Tensor) -> Tensor:
    """Return whether the last block of a decoded JPEG, uint8 [3, H, W], has a single color: a bool on its device."""
    height, width = pixels.shape[1:]
    block = pixels[:, (height - 1) // BLOCK * BLOCK :, (width - 1) // BLOCK * BLOCK :].flatten(1)
    return (block == block[:, :1]).all()
