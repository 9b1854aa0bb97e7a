"""Bytes of a photograph -> RGB pixels and the JPEG to store, or the reason why it cannot be used."""

import io
import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torchvision.io
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode

from common.errors import ImageFailure, Reason, describe_error

JPEG_QUALITY = 95  # of the sources that must be encoded anew
JPEG_LONGEST_SIDE = 65_500  # libjpeg's own limit
ORIENTATION_TAG = 0x0112
BASELINE_OR_PROGRESSIVE = (0xC0, 0xC1, 0xC2)
STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD9)}
MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # all but stuffing, fill bytes and restarts

Image.MAX_IMAGE_PIXELS = None  # `max_pixels` is checked here, on the header, before any decoding


class StoredImage(NamedTuple):
    """The JPEG that goes into the data set, and its frame as a decoder that ignores EXIF gives it."""

    jpeg: bytes
    width: int
    height: int
    orientation: int  # EXIF, 1..8; 1 is upright
    reencoded_from: str  # the source's format where `jpeg` is not the source's own bytes, else empty


@dataclass(frozen=True)
class JpegHeader:
    """What the markers of a JPEG say; `frame` is its SOF marker, `complete` whether its end was found."""

    width: int
    height: int
    components: int
    frame: int
    complete: bool


def read_photograph(data: bytes, max_pixels: int, min_side: int) -> tuple[Tensor, StoredImage]:
    """Decode a photograph of any format that Pillow knows: its pixels, uint8 [3, H, W], and what is to be stored.

    A baseline or progressive JPEG in RGB or grey keeps its own bytes. Anything else (PNG, CMYK, ...) is turned upright,
    flattened on white, and encoded once as JPEG. Of an animation the first frame is taken.
    Raises ImageFailure: empty, not_an_image, truncated, corrupt, too_large, too_small.
    """
    if not data:
        raise ImageFailure(Reason.EMPTY, "the file holds 0 bytes")
    header = read_jpeg_header(data) if data.startswith(b"\xff\xd8") else None
    if header is None or header.components not in (1, 3) or header.frame not in BASELINE_OR_PROGRESSIVE:
        return _reencoded(data, max_pixels, min_side)
    _check_size(header.width, header.height, max_pixels, min_side)
    if not header.complete:
        raise ImageFailure(Reason.TRUNCATED, f"the JPEG has no end marker in its {len(data)} bytes")
    try:
        pixels = decode_jpeg(data)
    except RuntimeError as error:
        raise ImageFailure(Reason.CORRUPT, str(error).splitlines()[0]) from None
    return pixels, StoredImage(data, header.width, header.height, _orientation(data), "")


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Walk a JPEG's markers, without decoding; None where there is no frame header in it."""
    position, frame = 2, None
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0xD9:
            break
        if marker in STANDALONE_MARKERS:
            position += 2
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and position + 10 <= len(data):
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            frame = frame or (width, height, components, marker)
        position += 2 + length
        if marker == 0xDA:  # the coded pixels follow; skip to the next marker
            found = MARKER_IN_SCAN.search(data, position)
            position = found.start() if found else len(data)
    complete = data[position : position + 2] == b"\xff\xd9"
    return JpegHeader(*frame, complete) if frame else None


def _reencoded(data: bytes, max_pixels: int, min_side: int) -> tuple[Tensor, StoredImage]:
    """Decode with Pillow and encode as JPEG."""
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:  # Pillow raises many kinds on hostile bytes
        raise ImageFailure(Reason.NOT_AN_IMAGE, f"no decoder knows these {len(data)} bytes") from None
    _check_size(image.width, image.height, max_pixels, min_side)
    source = f"{image.format} {image.mode}"
    encoded = io.BytesIO()
    try:
        rgb = _flattened(ImageOps.exif_transpose(image))
        rgb.save(encoded, "JPEG", quality=JPEG_QUALITY)
    except Exception as error:
        message = f"{source}: {describe_error(error)}"
        reason = Reason.TRUNCATED if "truncated" in message.lower() else Reason.CORRUPT
        raise ImageFailure(reason, message) from None
    jpeg = encoded.getvalue()
    return decode_jpeg(jpeg), StoredImage(jpeg, rgb.width, rgb.height, 1, source)


def decode_jpeg(jpeg: bytes) -> Tensor:
    """The pixels as they are stored, uint8 [3, H, W]; EXIF is ignored. Raises RuntimeError on damaged bytes."""
    return torchvision.io.decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)


def _flattened(image: Image.Image) -> Image.Image:
    """Any mode -> 8-bit RGB: deep greys are scaled (Pillow would clip them), transparency shows white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
        return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def _orientation(data: bytes) -> int:
    """The EXIF orientation of a JPEG; 1 where it has none or a senseless one."""
    if b"Exif\0" not in data:
        return 1
    try:
        value = Image.open(io.BytesIO(data)).getexif().get(ORIENTATION_TAG)
    except Exception:  # broken EXIF does not make the picture unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise ImageFailure(Reason.TOO_LARGE, f"{width} x {height} pixels, over max_pixels = {max_pixels}")
    if max(width, height) > JPEG_LONGEST_SIDE:
        raise ImageFailure(
            Reason.TOO_LARGE, f"{width} x {height} pixels, a JPEG holds at most {JPEG_LONGEST_SIDE} a side"
        )
    if min(width, height) < min_side:
        raise ImageFailure(Reason.TOO_SMALL, f"{width} x {height} pixels, a side below min_side = {min_side}")
