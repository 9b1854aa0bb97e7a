"""Decoding of photographs: from the bytes of a file to RGB pixels and the JPEG to store, or a failure reason."""

import io
import re
import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
import torchvision.io
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode

from common.errors import ImageFailure, Reason, describe_error
from common.text import pluralize

JPEG_QUALITY = 95  # of images that are re-encoded
JPEG_MAX_SIDE = 65_500  # pixels; the limit of libjpeg
ORIENTATION_TAG = 0x0112  # in EXIF
BASELINE_OR_PROGRESSIVE = (0xC0, 0xC1, 0xC2)  # start-of-frame markers SOF0, SOF1 and SOF2
STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0 to RST7 and SOI: no length and no content follow
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # excludes stuffed zeros, fill bytes and restart markers
BLOCK = 8  # side in pixels of a JPEG's blocks
FILLER = 128  # value of every channel in blocks that a decoder fills in because the JPEG lacks them
# libjpeg's warnings that pixels are missing or wrong, and what they mean for the image. Its other warnings, such as
# extraneous bytes between segments, leave the pixels as they should be.
DAMAGE_WARNINGS = {
    "premature end": Reason.TRUNCATED,
    "found marker 0xd9 instead of RST": Reason.TRUNCATED,  # the end marker
    "instead of RST": Reason.CORRUPT,
    "bad Huffman code": Reason.CORRUPT,
}

Image.MAX_IMAGE_PIXELS = None  # replaced by the check of `max_pixels` below, which also precedes any decoding


class StoredImage(NamedTuple):
    """The JPEG that a data set stores for a photograph; its size is that of the stored pixels, not turned upright."""

    jpeg: bytes
    width: int
    height: int
    orientation: int  # EXIF orientation, 1 to 8; 1 is upright
    reencoded_from: str  # format and mode of the source, such as "PNG RGBA"; empty if `jpeg` is the source's own bytes


@dataclass(frozen=True)
class JpegHeader:
    """What the markers of a JPEG declare."""

    width: int
    height: int
    components: int
    start_of_frame: int  # the SOF marker, which identifies the coding process: 0xC0 is baseline, 0xC2 progressive
    scans: int  # more than one in a progressive JPEG
    complete: bool  # the end-of-image marker was found


def read_photograph(data: bytes, max_pixels: int, min_side: int) -> tuple[Tensor, StoredImage]:
    """Decode a photograph in any format that Pillow supports.

    Returns its pixels, uint8 [3, H, W], and the JPEG to store. A baseline or progressive JPEG in RGB or gray is stored
    unchanged, and its pixels are not turned upright. Anything else (PNG, CMYK, ...) is turned upright, flattened onto
    white and re-encoded as JPEG. Only the first frame of an animation is used.
    Raises ImageFailure with the reason empty, not_an_image, truncated, corrupt, too_large or too_small.
    """
    if not data:
        raise ImageFailure(Reason.EMPTY, "the file holds 0 bytes")
    header = read_jpeg_header(data) if data.startswith(b"\xff\xd8") else None
    if header is None or header.components not in (1, 3) or header.start_of_frame not in BASELINE_OR_PROGRESSIVE:
        return _reencode(data, max_pixels, min_side)
    _check_size(header.width, header.height, max_pixels, min_side)
    if not header.complete:
        raise ImageFailure(Reason.TRUNCATED, f"the JPEG has no end marker in its {pluralize(len(data), 'byte')}")
    try:
        pixels = decode_jpeg(data)
    except RuntimeError as error:
        raise ImageFailure(Reason.CORRUPT, str(error).splitlines()[0]) from None
    # Of a JPEG that is cut but ends with an end marker, the decoder fills in the missing blocks. If only later scans
    # are cut, which refine all blocks, nothing in the pixels shows it.
    if header.scans > 1 or _ends_with_filler(pixels):
        _check_pixel_data(data, "RGB")
    return pixels, StoredImage(data, header.width, header.height, _read_orientation(data), "")


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the markers of a JPEG without decoding it. Returns None if it has no frame header."""
    position, frame, scans = 2, None, 0
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == END_OF_IMAGE:
            break
        if marker in STANDALONE_MARKERS:
            position += 2
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)  # not DHT, JPG or DAC
        if is_frame and position + 10 <= len(data):
            height, width, components = struct.unpack_from(">HHB", data, position + 5)
            frame = frame or (width, height, components, marker)
        position += 2 + length
        if marker == START_OF_SCAN:  # entropy-coded pixels follow; skip to the next marker
            scans += 1
            next_marker = MARKER_IN_SCAN.search(data, position)
            position = next_marker.start() if next_marker else len(data)
    complete = data[position : position + 2] == b"\xff\xd9"
    return JpegHeader(*frame, scans, complete) if frame else None


def _ends_with_filler(pixels: Tensor) -> bool:
    """Return whether the last block of decoded pixels, uint8 [3, H, W], has the color of blocks that a JPEG lacks."""
    height, width = pixels.shape[1:]
    block = pixels[:, (height - 1) // BLOCK * BLOCK :, (width - 1) // BLOCK * BLOCK :]
    return bool((block == FILLER).all())


def _check_pixel_data(jpeg: bytes, color_space: str) -> None:
    """Raise ImageFailure if a JPEG that decoders accept with a warning lacks pixels or has wrong ones."""
    try:
        # decoding at an eighth of the size takes less time, and reads all of the JPEG
        simplejpeg.decode_jpeg(jpeg, color_space, min_height=1, min_width=1, strict=True)
    except ValueError as error:
        for warning, reason in DAMAGE_WARNINGS.items():
            if warning in str(error):
                raise ImageFailure(reason, str(error)) from None


def _reencode(data: bytes, max_pixels: int, min_side: int) -> tuple[Tensor, StoredImage]:
    """Decode an image with Pillow and encode it as an upright JPEG."""
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:  # Pillow raises exceptions of many types on malformed bytes
        raise ImageFailure(Reason.NOT_AN_IMAGE, f"no decoder recognizes these {pluralize(len(data), 'byte')}") from None
    _check_size(image.width, image.height, max_pixels, min_side)
    source = f"{image.format} {image.mode}"
    encoded = io.BytesIO()
    if image.format in ("JPEG", "MPO"):
        _check_pixel_data(data, "CMYK" if image.mode == "CMYK" else "RGB")
    try:
        rgb = _to_rgb(ImageOps.exif_transpose(image))
        rgb.save(encoded, "JPEG", quality=JPEG_QUALITY)
    except Exception as error:
        message = f"{source}: {describe_error(error)}"
        reason = Reason.TRUNCATED if "truncated" in message.lower() else Reason.CORRUPT
        raise ImageFailure(reason, message) from None
    jpeg = encoded.getvalue()
    return decode_jpeg(jpeg), StoredImage(jpeg, rgb.width, rgb.height, 1, source)


def decode_jpeg(jpeg: bytes) -> Tensor:
    """Decode a JPEG to RGB, uint8 [3, H, W], ignoring EXIF orientation. Raises RuntimeError if it is damaged."""
    return torchvision.io.decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB: deep grays are scaled (Pillow would clip them), transparency becomes white.

    Raises ValueError for pixels that are not finite.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("its pixels hold NaN or infinity")
        white_level = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1.0)
        return Image.fromarray((values / white_level * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _read_orientation(data: bytes) -> int:
    """Return the EXIF orientation of a JPEG; 1 if it is missing or invalid."""
    if b"Exif\0" not in data:
        return 1
    try:
        value = Image.open(io.BytesIO(data)).getexif().get(ORIENTATION_TAG)
    except Exception:  # broken EXIF does not make an image unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise ImageFailure(Reason.TOO_LARGE, f"{width} x {height} pixels, over max_pixels = {max_pixels}")
    if max(width, height) > JPEG_MAX_SIDE:
        raise ImageFailure(
            Reason.TOO_LARGE, f"{width} x {height} pixels, a side above {JPEG_MAX_SIDE}, the limit of JPEG"
        )
    if min(width, height) < min_side:
        raise ImageFailure(Reason.TOO_SMALL, f"{width} x {height} pixels, a side below min_side = {min_side}")
