"""Synthetic photographs for tests, well-formed and hostile, as the bytes of image files."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.data.rare_formats import ARITHMETIC_JPEG, HEIC, LOSSLESS_JPEG, TWELVE_BIT_JPEG

ORIENTATION_TAG = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BOMB_SIDE = 30_000


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder, given their contents by relative path."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def photograph(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Return an RGB image with the properties of a photograph: smooth shading, edges and noise, and no symmetry."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    angles = generator.uniform(0, 2 * np.pi, 3)
    shading = np.stack([128 + 90 * np.sin(3 * (x * np.cos(a) + y * np.sin(a)) + a) for a in angles], axis=2)
    shading[: height // 3, : width // 4] *= 0.4
    return Image.fromarray((shading + generator.normal(0, 4, shading.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Encode an image as a file of the given format. `options` are those of Pillow's `save`."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def jpeg(width: int = 64, height: int = 48, seed: int = 0, **save_options: Any) -> bytes:
    """Return a photograph as JPEG."""
    return encoded(photograph(width, height, seed), "JPEG", **{"quality": 95, **save_options})


def rotated_jpeg(orientation: int, width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    """Return a JPEG with an EXIF orientation."""
    return jpeg(width, height, seed, exif=exif(orientation))


def exif(orientation: int) -> Image.Exif:
    """Return EXIF data that holds only an orientation."""
    tags = Image.Exif()
    tags[ORIENTATION_TAG] = orientation
    return tags


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """Insert a segment right after the start marker of a JPEG."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def with_thumbnail(data: bytes) -> bytes:
    """Add EXIF data with a thumbnail, a small JPEG that has its own end marker, to a JPEG."""
    thumbnail = jpeg(16, 12, seed=9)
    # the first directory holds an orientation; the second, at byte 26, the thumbnail's compression, offset and length
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, ORIENTATION_TAG, 3, 1, 1, 26)
    entries = [(0x0103, 3, 6), (0x0201, 4, 68), (0x0202, 4, len(thumbnail))]
    tiff += struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, field_type, 1, value) for tag, field_type, value in entries)
    tiff += struct.pack("<I", 0)
    return with_segment(data, 0xE1, b"Exif\0\0" + tiff + thumbnail)


def resized_jpeg_header(data: bytes, width: int, height: int) -> bytes:
    """Return the JPEG with a frame header that claims another size."""
    frame = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def resized_png_header(data: bytes, width: int, height: int) -> bytes:
    """Return the PNG with a header that claims another size, with a valid checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def gray_ramp() -> np.ndarray:
    """Return all 65,536 gray levels, increasing along the rows: uint16 [256, 256]."""
    return np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)


def half_transparent() -> Image.Image:
    """Return a black RGBA image, opaque in the left half and transparent in the right."""
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[:, :32, 3] = 255
    return Image.fromarray(pixels)


def hostile_images() -> dict[str, tuple[bytes, str | None]]:
    """Return hostile and unusual image files by name, each with the reason why it fails, or None if it must be labeled.

    The reasons hold for the default `max_pixels` and `min_side`.
    """
    normal, gray = jpeg(), photograph().convert("L")
    frames = [photograph(seed=seed).convert("P") for seed in range(3)]
    scan = normal.index(b"\xff\xda")
    thumbnailed = with_thumbnail(normal)
    images: dict[str, tuple[bytes, str | None]] = {
        "empty.JPEG": (b"", "empty"),
        "text.JPEG": (b"<html><body>404 Not Found</body></html>\n", "not_an_image"),
        "zeros.jpg": (bytes(4096), "not_an_image"),
        "start_marker_only.jpg": (b"\xff\xd8", "not_an_image"),
        "cut_before_scan.jpg": (normal[:scan], "truncated"),
        "cut_early_in_scan.jpg": (normal[: scan + 40], "truncated"),
        "cut_in_the_middle.jpg": (normal[: (scan + len(normal)) // 2], "truncated"),
        "cut_before_end_marker.jpg": (normal[:-2], "truncated"),
        "cut_progressive.jpg": (jpeg(progressive=True)[:-200], "truncated"),
        "cut_after_thumbnail.jpg": (
            thumbnailed[: thumbnailed.index(b"\xff\xda", len(thumbnailed) - len(normal)) + 50],
            "truncated",
        ),
        "cut.png": (encoded(photograph(), "PNG")[:3000], "truncated"),
        "one_pixel.png": (encoded(photograph(1, 1), "PNG"), "too_small"),
        "one_pixel.jpg": (jpeg(1, 1), "too_small"),
        "bomb.png": (resized_png_header(encoded(gray.convert("1"), "PNG"), BOMB_SIDE, BOMB_SIDE), "too_large"),
        "bomb.jpg": (resized_jpeg_header(normal, BOMB_SIDE, BOMB_SIDE), "too_large"),
        "normal.jpg": (normal, None),
        "png_inside.JPEG": (encoded(photograph(), "PNG"), None),
        "cmyk.JPEG": (encoded(photograph().convert("CMYK"), "JPEG", quality=95), None),
        "gray.JPEG": (encoded(gray, "JPEG", quality=95), None),
        "progressive.jpg": (jpeg(progressive=True), None),
        "restart_markers.jpg": (jpeg(restart_marker_blocks=2), None),
        "trailing_garbage.jpg": (normal + bytes(range(256)) * 4, None),
        "thumbnail.jpg": (thumbnailed, None),
        "deep_gray.png": (encoded(Image.fromarray(gray_ramp()), "PNG"), None),
        "transparent.png": (encoded(half_transparent(), "PNG"), None),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), None),
        "picture.webp": (encoded(photograph(), "WEBP", quality=95), None),
        "arithmetic.jpg": (ARITHMETIC_JPEG, None),
        "lossless.jpg": (LOSSLESS_JPEG, None),
        "cut_arithmetic.jpg": (ARITHMETIC_JPEG[:-20], "truncated"),
        "cut_lossless.jpg": (LOSSLESS_JPEG[:-100], "truncated"),
        "twelve_bits.jpg": (TWELVE_BIT_JPEG, "corrupt"),
        "heic.jpg": (HEIC, "not_an_image"),
    }
    images.update({f"orientation_{value}.jpg": (rotated_jpeg(value), None) for value in range(1, 9)})
    return images
