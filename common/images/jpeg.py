"""JPEGs: what their markers declare, their pixels, and damage that decoders pass over."""

import contextlib
import io
import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import simplejpeg
from PIL import Image

from common.errors import ImageFailure, Reason

if TYPE_CHECKING:
    from torch import Tensor  # importing torch takes seconds, and not all of this package needs it

ORIENTATION_TAG = 0x0112  # in EXIF
BASELINE, PROGRESSIVE = 0xC0, 0xC2  # start-of-frame markers SOF0 and SOF2; SOF1 is between them
END_OF_IMAGE, START_OF_SCAN = 0xD9, 0xDA
EXIF_SEGMENT, ADOBE_SEGMENT, OTHER_SEGMENT = 0xE1, 0xEE, 0xEF  # APP1, APP14, and APP15, which decoders ignore
# of a segment; not a stuffed zero or a fill byte, and not TEM, RST0 to RST7 or SOI, which have no length and no content
MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
LOSSLESS_FRAME = re.compile(rb"\xff[\xc3\xc7\xcb\xcf]")  # SOF3, 7, 11 and 15; may also occur in metadata
BLOCK = 8  # side in pixels of a JPEG's blocks
FILLER = 128  # value of every channel in blocks that libjpeg fills in because the JPEG lacks them
# libjpeg's warnings that pixels are missing or wrong, and what they mean for the image. Its other warnings, such as
# extraneous bytes between segments, leave the pixels as they should be.
DAMAGE_WARNINGS = {
    "premature end": Reason.TRUNCATED,  # of a segment
    "Premature end": Reason.TRUNCATED,  # of the file
    "found marker 0xd9 instead of RST": Reason.TRUNCATED,  # the end marker
    "instead of RST": Reason.CORRUPT,
    "bad Huffman code": Reason.CORRUPT,
}


@dataclass(frozen=True)
class JpegHeader:
    """What the markers of a JPEG declare."""

    width: int
    height: int
    bits: int  # per channel
    components: tuple[tuple[int, int], ...]  # identifier and sampling factors (horizontal * 16 + vertical) of each
    start_of_frame: int  # the SOF marker, which identifies the coding process
    scans: int  # more than one in a progressive JPEG
    is_adobe: bool  # has a segment that may declare another color space than the usual one
    complete: bool  # the end-of-image marker was found

    @property
    def is_simple(self) -> bool:
        """Whether every decoder gives the same pixels: baseline, one scan, gray or YCbCr without subsampled chroma."""
        is_gray = len(self.components) == 1
        is_full_color = self.components == ((1, 0x11), (2, 0x11), (3, 0x11)) and not self.is_adobe
        return self.start_of_frame == BASELINE and self.bits == 8 and self.scans == 1 and (is_gray or is_full_color)


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the markers of a JPEG without decoding it. Returns None if it has no frame header."""
    frame, scans, is_adobe, complete = None, 0, False, False
    for marker, start, end in read_segments(data):
        is_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)  # not DHT, JPG or DAC
        if is_frame and start + 10 <= len(data):
            frame = frame or (marker, *struct.unpack_from(">BHHB", data, start + 4), data[start + 10 : end])
        scans += marker == START_OF_SCAN
        is_adobe |= marker == ADOBE_SEGMENT
        complete = marker == END_OF_IMAGE
    if frame is None:
        return None
    start_of_frame, bits, height, width, number, components = frame
    pairs = tuple(zip(components[: 3 * number : 3], components[1 : 3 * number : 3], strict=False))
    return JpegHeader(width, height, bits, pairs, start_of_frame, scans, is_adobe, complete)


def read_segments(jpeg: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of a JPEG, up to its end marker if it has one.

    Skips entropy-coded pixels and, as decoders do, bytes between segments that belong to none.
    """
    end = 2
    while found := MARKER.search(jpeg, end):
        start, marker = found.start(), jpeg[found.start() + 1]
        if marker == END_OF_IMAGE:
            yield marker, start, start + 2
            return
        if start + 4 > len(jpeg):
            return
        end = start + 2 + struct.unpack_from(">H", jpeg, start + 2)[0]
        yield marker, start, end


def find_exif(jpeg: bytes) -> list[int]:
    """Return where segments of the kind that holds EXIF data begin, before the first scan, where decoders look."""
    before_scan = itertools.takewhile(lambda segment: segment[0] != START_OF_SCAN, read_segments(jpeg))
    return [start for marker, start, _ in before_scan if marker == EXIF_SEGMENT]


def decode_jpeg(jpeg: bytes) -> "Tensor":
    """Decode a JPEG to RGB, uint8 [3, H, W], ignoring EXIF orientation. Raises ValueError if it is damaged."""
    import torchcodec.decoders

    try:
        [pixels] = torchcodec.decoders.decode_jpeg([hide_exif(jpeg)])
        return pixels
    except (RuntimeError, ValueError) as error:
        raise ValueError(str(error).partition("\n")[0].rpartition(", ")[2]) from None  # without torchcodec's function


def hide_exif(jpeg: bytes) -> bytes:
    """Mark the EXIF segments of a JPEG as others, so that torchcodec, which turns pixels upright, leaves them.

    It takes any segment of their kind for EXIF, whatever the name in it.
    """
    if not (segments := find_exif(jpeg)):
        return jpeg
    changed = bytearray(jpeg)
    for start in segments:
        changed[start + 1] = OTHER_SEGMENT
    return bytes(changed)


def read_orientation(jpeg: bytes) -> int:
    """Return the EXIF orientation of a JPEG; 1 if it is missing or invalid."""
    if any(jpeg.startswith(b"Exif\0", start + 4) for start in find_exif(jpeg)):
        with contextlib.suppress(Exception):
            return orientation_of(Image.open(io.BytesIO(jpeg)))
    return 1


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image; 1 if it is missing or invalid."""
    try:
        value = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # broken EXIF does not make an image unusable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def ends_with_filler(pixels: "Tensor") -> bool:
    """Return whether the last block of decoded pixels, uint8 [3, H, W], has the color of blocks that a JPEG lacks."""
    height, width = pixels.shape[1:]
    block = pixels[:, (height - 1) // BLOCK * BLOCK :, (width - 1) // BLOCK * BLOCK :]
    return bool((block == FILLER).all())


def check_pixel_data(jpeg: bytes, color_space: str) -> None:
    """Raise ImageFailure if a JPEG that decoders accept with a warning lacks pixels or has wrong ones."""
    # Decoding at an eighth of the size takes less time, and reads all of the JPEG. A lossless JPEG has only one size:
    # simplejpeg would write all of its pixels into the smaller array, and beyond its end.
    side = 0 if LOSSLESS_FRAME.search(jpeg) else 1  # 0: full size
    try:
        simplejpeg.decode_jpeg(jpeg, color_space, min_height=side, min_width=side, strict=True)
    except ValueError as error:
        for warning, reason in DAMAGE_WARNINGS.items():
            if warning in str(error):
                raise ImageFailure(reason, str(error)) from None
