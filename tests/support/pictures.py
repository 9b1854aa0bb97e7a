"""Bytes of made-up photographs, normal and hostile, for tests."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION_TAG = 0x0112
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
BOMB_SIDE = 30_000


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Put files, by their names below it, into a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def photograph(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """An RGB picture with what a photograph has: smooth shading, edges and noise; no symmetry."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    angles = generator.uniform(0, 2 * np.pi, 3)
    shading = np.stack([128 + 90 * np.sin(3 * (x * np.cos(a) + y * np.sin(a)) + a) for a in angles], axis=2)
    shading[: height // 3, : width // 4] *= 0.4
    return Image.fromarray((shading + generator.normal(0, 4, shading.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(width: int = 64, height: int = 48, seed: int = 0, **save_options: Any) -> bytes:
    """A photograph as JPEG."""
    return encoded(photograph(width, height, seed), "JPEG", **{"quality": 95, **save_options})


def turned_jpeg(orientation: int, width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    """A JPEG whose EXIF says how a viewer must turn it."""
    return jpeg(width, height, seed, exif=exif(orientation))


def exif(orientation: int) -> Image.Exif:
    """EXIF that holds nothing but an orientation."""
    tags = Image.Exif()
    tags[ORIENTATION_TAG] = orientation
    return tags


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG with one more segment, right after its start."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def with_thumbnail(data: bytes) -> bytes:
    """A JPEG whose EXIF holds a small JPEG, with an end marker of its own."""
    thumbnail = jpeg(16, 12, seed=9)
    # the first directory holds an orientation; the second, at byte 26: JPEG, where, how long
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, ORIENTATION_TAG, 3, 1, 1, 26)
    entries = [(0x0103, 3, 6), (0x0201, 4, 68), (0x0202, 4, len(thumbnail))]
    tiff += struct.pack("<H", len(entries))
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    tiff += struct.pack("<I", 0)
    return with_segment(data, 0xE1, b"Exif\0\0" + tiff + thumbnail)


def resized_jpeg_header(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header claims another size."""
    frame = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def resized_png_header(data: bytes, width: int, height: int) -> bytes:
    """A PNG whose header claims another size, with the right checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def grey_ramp() -> np.ndarray:
    """All 65,536 greys, dark to bright along the rows: uint16 [256, 256]."""
    return np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)


def half_transparent() -> Image.Image:
    """Black everywhere; opaque on the left, transparent on the right."""
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[:, :32, 3] = 255
    return Image.fromarray(pixels)


def hostile_images() -> dict[str, tuple[bytes, str | None]]:
    """By file name: the bytes, and the reason why such an image is left out; None where it must be labelled.

    The reasons are those under the default `max_pixels` and `min_side`.
    """
    normal, grey = jpeg(), photograph().convert("L")
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
        "bomb.png": (resized_png_header(encoded(grey.convert("1"), "PNG"), BOMB_SIDE, BOMB_SIDE), "too_large"),
        "bomb.jpg": (resized_jpeg_header(normal, BOMB_SIDE, BOMB_SIDE), "too_large"),
        "normal.jpg": (normal, None),
        "png_inside.JPEG": (encoded(photograph(), "PNG"), None),
        "cmyk.JPEG": (encoded(photograph().convert("CMYK"), "JPEG", quality=95), None),
        "grey.JPEG": (encoded(grey, "JPEG", quality=95), None),
        "progressive.jpg": (jpeg(progressive=True), None),
        "restart_markers.jpg": (jpeg(restart_marker_blocks=2), None),
        "trailing_garbage.jpg": (normal + bytes(range(256)) * 4, None),
        "thumbnail.jpg": (thumbnailed, None),
        "deep_grey.png": (encoded(Image.fromarray(grey_ramp()), "PNG"), None),
        "transparent.png": (encoded(half_transparent(), "PNG"), None),
        "animated.gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), None),
        "picture.webp": (encoded(photograph(), "WEBP", quality=95), None),
    }
    images.update({f"orientation_{value}.jpg": (turned_jpeg(value), None) for value in range(1, 9)})
    return images
