"""Decoding of photographs: from the bytes of a file to RGB pixels and the JPEG to store, or a failure reason."""

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from common.errors import ImageFailure, Reason, describe_error
from common.images.jpeg import (
    BASELINE,
    PROGRESSIVE,
    JpegHeader,
    check_pixel_data,
    decode_jpeg,
    ends_with_filler,
    orientation_of,
    read_jpeg_header,
    read_orientation,
)
from common.images.orientation import to_upright_image
from common.text import pluralize

if TYPE_CHECKING:
    from torch import Tensor

JPEG_QUALITY = 95  # of images that are re-encoded
JPEG_MAX_SIDE = 65_500  # pixels; the limit of libjpeg
JPEG_MAX_COMMENT = 65_533  # bytes; a GIF's may be longer

Image.MAX_IMAGE_PIXELS = None  # replaced by the check of `max_pixels` below, which also precedes any decoding


class StoredImage(NamedTuple):
    """The JPEG that a data set stores for a photograph; its size is that of the stored pixels, not turned upright."""

    jpeg: bytes
    width: int
    height: int
    orientation: int  # EXIF orientation, 1 to 8; 1 is upright
    reencoded_from: str  # format and mode of the source, such as "PNG RGBA"; empty if `jpeg` is the source's own bytes


def read_photograph(data: bytes, max_pixels: int, min_side: int) -> "tuple[Tensor, StoredImage]":
    """Decode a photograph in any format that Pillow supports.

    Returns its pixels, uint8 [3, H, W], and the JPEG to store. A baseline or progressive JPEG in RGB or gray is stored
    unchanged, and its pixels are not turned upright. Anything else (PNG, CMYK, ...) is turned upright, flattened onto
    white and re-encoded as JPEG. Only the first frame of an animation is used.
    Raises ImageFailure with the reason empty, not_an_image, truncated, corrupt, too_large or too_small.
    """
    return decode_photograph(data, check_photograph(data, max_pixels, min_side), max_pixels, min_side)


def decode_photograph(
    data: bytes, header: JpegHeader | None, max_pixels: int, min_side: int
) -> "tuple[Tensor, StoredImage]":
    """Decode a photograph whose header `check_photograph` has read; the rest is as for `read_photograph`."""
    if header is None:
        return _reencode(data, max_pixels, min_side)
    try:
        pixels = decode_jpeg(data)
    except ValueError as error:
        raise ImageFailure(Reason.CORRUPT, str(error)) from None
    # Of a JPEG that is cut but ends with an end marker, the decoder fills in the missing blocks. If only later scans
    # are cut, which refine all blocks, nothing in the pixels shows it.
    if header.scans > 1 or ends_with_filler(pixels):
        check_pixel_data(data, "RGB")
    return pixels, describe_jpeg(data, header)


def check_photograph(data: bytes, max_pixels: int, min_side: int) -> JpegHeader | None:
    """Check what can be checked without decoding. Returns the header of a JPEG to store unchanged, None for others.

    Raises ImageFailure with the reason empty, truncated, too_large or too_small.
    """
    if not data:
        raise ImageFailure(Reason.EMPTY, "the file holds 0 bytes")
    header = read_jpeg_header(data) if data.startswith(b"\xff\xd8") else None
    if header is None or len(header.components) not in (1, 3):
        return None
    if not BASELINE <= header.start_of_frame <= PROGRESSIVE:
        return None
    _check_size(header.width, header.height, max_pixels, min_side)
    if not header.complete:
        raise ImageFailure(Reason.TRUNCATED, f"the JPEG has no end marker in its {pluralize(len(data), 'byte')}")
    return header


def describe_jpeg(jpeg: bytes, header: JpegHeader) -> StoredImage:
    """Return a JPEG that is stored unchanged, with its size and orientation."""
    return StoredImage(jpeg, header.width, header.height, read_orientation(jpeg), "")


def _reencode(data: bytes, max_pixels: int, min_side: int) -> "tuple[Tensor, StoredImage]":
    """Decode an image with Pillow and encode it as an upright JPEG."""
    try:
        image = Image.open(io.BytesIO(data))
    except Exception:  # Pillow raises exceptions of many types on malformed bytes
        hint = "; it is HEIC or a video: convert it to JPEG" if data[4:8] == b"ftyp" else ""
        message = f"no decoder recognizes these {pluralize(len(data), 'byte')}{hint}"
        raise ImageFailure(Reason.NOT_AN_IMAGE, message) from None
    _check_size(image.width, image.height, max_pixels, min_side)
    source = f"{image.format} {image.mode}"
    encoded = io.BytesIO()
    if image.format in ("JPEG", "MPO"):
        check_pixel_data(data, "CMYK" if image.mode == "CMYK" else "RGB")
    try:
        rgb = to_upright_image(_to_rgb(image), orientation_of(image))
        if len(rgb.info.get("comment", b"")) > JPEG_MAX_COMMENT:
            del rgb.info["comment"]
        rgb.save(encoded, "JPEG", quality=JPEG_QUALITY)
    except Exception as error:
        message = f"{source}: {describe_error(error)}"
        reason = Reason.TRUNCATED if "truncated" in message.lower() else Reason.CORRUPT
        raise ImageFailure(reason, message) from None
    jpeg = encoded.getvalue()
    return decode_jpeg(jpeg), StoredImage(jpeg, rgb.width, rgb.height, 1, source)


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


def _check_size(width: int, height: int, max_pixels: int, min_side: int) -> None:
    if width * height > max_pixels:
        raise ImageFailure(Reason.TOO_LARGE, f"{width} x {height} pixels, over max_pixels = {max_pixels}")
    if max(width, height) > JPEG_MAX_SIDE:
        raise ImageFailure(
            Reason.TOO_LARGE, f"{width} x {height} pixels, a side above {JPEG_MAX_SIDE}, the limit of JPEG"
        )
    if min(width, height) < min_side:
        raise ImageFailure(Reason.TOO_SMALL, f"{width} x {height} pixels, a side below min_side = {min_side}")
