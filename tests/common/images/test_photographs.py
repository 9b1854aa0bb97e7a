import contextlib
import io
import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common.errors import ImageFailure, Reason
from common.images import StoredImage, read_photograph
from common.images.jpeg import read_jpeg_header
from tests.support.data.pictures import (
    encoded,
    exif,
    gray_ramp,
    half_transparent,
    hostile_images,
    jpeg,
    photograph,
    rotated_jpeg,
    with_segment,
)

MAX_PIXELS, MIN_SIDE = 100_000_000, 8
HOSTILE = hostile_images()
USABLE = [name for name, (_, reason) in HOSTILE.items() if reason is None]
STORED_UNCHANGED = [
    "normal.jpg",
    "gray.JPEG",
    "progressive.jpg",
    "restart_markers.jpg",
    "trailing_garbage.jpg",
    "thumbnail.jpg",
]


def decode(data: bytes) -> tuple[np.ndarray, StoredImage]:
    """Return the pixels as [H, W, 3], the layout of Pillow and NumPy, and the stored image."""
    pixels, stored = read_photograph(data, MAX_PIXELS, MIN_SIDE)
    return pixels.permute(1, 2, 0).numpy(), stored


def decode_with_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def mean_difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in USABLE])
def test_unusable_images_fail_with_their_reason(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(ImageFailure) as failure:
        read_photograph(data, MAX_PIXELS, MIN_SIDE)
    assert failure.value.reason == reason
    assert failure.value.message


def test_heic_with_the_name_of_a_jpeg_is_named() -> None:
    with pytest.raises(ImageFailure, match="HEIC"):
        read_photograph(HOSTILE["heic.jpg"][0], MAX_PIXELS, MIN_SIDE)


@pytest.mark.parametrize("name", USABLE)
def test_usable_images_give_pixels_and_a_jpeg_with_the_same_frame(name: str) -> None:
    pixels, stored = decode(HOSTILE[name][0])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (stored.height, stored.width, 3)
    assert Image.open(io.BytesIO(stored.jpeg)).format == "JPEG"
    assert mean_difference(pixels, decode_with_pillow(stored.jpeg)) < 1


@pytest.mark.parametrize("name", [*STORED_UNCHANGED, *(f"orientation_{value}.jpg" for value in range(1, 9))])
def test_jpegs_in_rgb_or_gray_are_stored_unchanged(name: str) -> None:
    data = HOSTILE[name][0]
    _, stored = decode(data)
    assert stored.jpeg == data
    assert stored.reencoded_from == ""


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("png_inside.JPEG", "PNG RGB"),
        ("cmyk.JPEG", "JPEG CMYK"),
        ("deep_gray.png", "PNG I;16"),
        ("transparent.png", "PNG RGBA"),
        ("animated.gif", "GIF P"),
        ("picture.webp", "WEBP RGB"),
        ("arithmetic.jpg", "JPEG RGB"),
        ("lossless.jpg", "JPEG RGB"),
    ],
)
def test_other_formats_are_reencoded_and_reported(name: str, source: str) -> None:
    data = HOSTILE[name][0]
    _, stored = decode(data)
    assert stored.reencoded_from == source
    header = read_jpeg_header(stored.jpeg)
    assert header is not None
    assert (header.width, header.height, len(header.components)) == (stored.width, stored.height, 3)


def test_reencoded_jpeg_has_the_bytes_that_pillow_writes_at_quality_95() -> None:
    _, stored = decode(encoded(photograph(), "PNG"))
    assert stored.jpeg == encoded(photograph(), "JPEG", quality=95)


@pytest.mark.parametrize("name", ["png_inside.JPEG", "cmyk.JPEG", "picture.webp"])
def test_reencoding_preserves_colors(name: str) -> None:
    assert mean_difference(decode(HOSTILE[name][0])[0], np.asarray(photograph())) < 4


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)])
def test_cmyk_is_not_inverted(color: tuple[int, int, int]) -> None:
    pixels, _ = decode(encoded(Image.new("RGB", (32, 32), color).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - color).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grays_are_scaled_and_not_clipped(kind: str) -> None:
    pixels, _ = decode(encoded(Image.fromarray(gray_ramp()), kind))
    assert np.abs(pixels - (gray_ramp() / 257)[:, :, None]).max() < 4
    assert (np.diff(pixels[:, 128, 0].astype(int)) >= -1).all()


def test_float_pixels_from_0_to_1_are_scaled() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    pixels, _ = decode(encoded(Image.fromarray(ramp), "TIFF"))
    assert np.abs(pixels[:, :, 0] - ramp * 255).max() < 4


@pytest.mark.parametrize(
    "data",
    [
        encoded(half_transparent(), "PNG"),
        encoded(half_transparent(), "WEBP", lossless=True),
        encoded(half_transparent().convert("LA"), "PNG"),
        encoded(half_transparent(), "GIF"),
    ],
    ids=["RGBA PNG", "WebP", "gray with alpha", "GIF"],
)
def test_transparency_becomes_white(data: bytes) -> None:
    pixels, _ = decode(data)
    assert pixels[:, :24].max() < 16
    assert pixels[:, 40:].min() > 239


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue")]
    pixels, _ = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_not_turned_and_reports_its_orientation(orientation: int) -> None:
    pixels, stored = decode(rotated_jpeg(orientation))
    assert stored.orientation == orientation
    assert (stored.width, stored.height) == (64, 48)
    assert mean_difference(pixels, decode_with_pillow(jpeg())) < 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_reencoded_images_are_upright(kind: str, orientation: int) -> None:
    image = photograph().convert("CMYK") if kind == "CMYK" else photograph()
    data = encoded(image, "JPEG" if kind == "CMYK" else kind, quality=95, exif=exif(orientation))
    pixels, stored = decode(data)
    assert stored.orientation == 1
    assert Image.open(io.BytesIO(stored.jpeg)).getexif().get(0x0112, 1) == 1
    assert mean_difference(pixels, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))) < 6


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_invalid_orientation_counts_as_upright(value: int) -> None:
    assert decode(rotated_jpeg(value))[1].orientation == 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.binary(max_size=200))
def test_broken_exif_does_not_make_an_image_unusable(content: bytes) -> None:
    pixels, stored = decode(with_segment(jpeg(), 0xE1, b"Exif\0\0" + content))
    assert 1 <= stored.orientation <= 8
    assert pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_broken_exif_does_not_make_a_reencoded_image_unusable(kind: str) -> None:
    pixels, stored = decode(encoded(photograph(), kind, exif=b"Exif\0\0garbage!"))
    assert stored.orientation == 1
    assert pixels.shape == (48, 64, 3)


def test_comment_that_is_too_long_for_a_jpeg_is_left_out() -> None:
    data = encoded(photograph(), "GIF", comment=bytes(70_000))
    assert decode(data)[1].reencoded_from.startswith("GIF")


def test_orientation_after_a_large_color_profile_is_found() -> None:
    data = rotated_jpeg(6)
    for _ in range(2):
        data = with_segment(data, 0xE2, b"ICC_PROFILE\0" + bytes(60_000))
    assert decode(data)[1].orientation == 6


def test_trailing_garbage_does_not_change_the_pixels() -> None:
    assert (decode(HOSTILE["trailing_garbage.jpg"][0])[0] == decode(jpeg())[0]).all()


def test_gray_becomes_three_equal_channels() -> None:
    pixels, _ = decode(HOSTILE["gray.JPEG"][0])
    assert (pixels == pixels[:, :, :1]).all()


def test_max_pixels_is_inclusive() -> None:
    assert read_photograph(jpeg(64, 48), 64 * 48, MIN_SIDE)[1].width == 64
    for data in (jpeg(64, 48), encoded(photograph(64, 48), "PNG")):
        with pytest.raises(ImageFailure, match="64 x 48 pixels, over max_pixels = 3071") as failure:
            read_photograph(data, 64 * 48 - 1, MIN_SIDE)
        assert failure.value.reason == Reason.TOO_LARGE


def test_min_side_is_inclusive() -> None:
    assert read_photograph(jpeg(64, 8), MAX_PIXELS, 8)[1].height == 8
    for data in (jpeg(64, 7), encoded(photograph(7, 64), "PNG")):
        with pytest.raises(ImageFailure, match="a side below min_side = 8") as failure:
            read_photograph(data, MAX_PIXELS, 8)
        assert failure.value.reason == Reason.TOO_SMALL


def test_a_png_too_wide_for_jpeg_is_too_large() -> None:
    with pytest.raises(ImageFailure) as failure:
        decode(encoded(Image.new("RGB", (65_501, 8)), "PNG"))
    assert failure.value.reason == Reason.TOO_LARGE


def test_the_widest_png_that_fits_a_jpeg_is_usable() -> None:
    assert decode(encoded(Image.new("RGB", (65_500, 8)), "PNG"))[1].width == 65_500


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_anywhere_in_its_scan_is_truncated(progressive: bool) -> None:
    data = jpeg(progressive=progressive)
    for cut in range(data.index(b"\xff\xda"), len(data), 7):
        with pytest.raises(ImageFailure) as failure:
            read_photograph(data[:cut], MAX_PIXELS, MIN_SIDE)
        assert failure.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 3}, {"progressive": True}], ids=str
)
@pytest.mark.parametrize("size", [(224, 224), (203, 157)])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.7, 0.9])
def test_a_cut_jpeg_that_ends_with_an_end_marker_is_truncated(
    part: float, size: tuple[int, int], options: dict[str, Any], mode: str
) -> None:
    """Decoders fill in what is missing with gray, or with pixels of a lower quality, and print a warning at most."""
    whole = encoded(photograph(*size).convert(mode), "JPEG", quality=90, **options)
    data = whole[: int(part * len(whole))].rstrip(b"\xff") + b"\xff\xd9"
    with pytest.raises(ImageFailure) as failure:
        read_photograph(data, MAX_PIXELS, MIN_SIDE)
    assert failure.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_at_a_restart_marker_is_truncated(progressive: bool) -> None:
    whole = jpeg(224, 224, restart_marker_blocks=4, progressive=progressive)
    cut = whole.rindex(b"\xff\xd3")
    with pytest.raises(ImageFailure, match="found marker 0xd9 instead of RST3") as failure:
        read_photograph(whole[:cut] + b"\xff\xd9", MAX_PIXELS, MIN_SIDE)
    assert failure.value.reason == Reason.TRUNCATED


def test_a_progressive_jpeg_that_lacks_bytes_in_its_middle_is_corrupt() -> None:
    whole = jpeg(224, 224, restart_marker_blocks=4, progressive=True)
    start = whole.rindex(b"\xff\xd3")
    end = whole.index(b"\xff\xd4", start)
    with pytest.raises(ImageFailure, match="found marker 0xd4 instead of RST3") as failure:
        read_photograph(whole[:start] + whole[end:], MAX_PIXELS, MIN_SIDE)
    assert failure.value.reason == Reason.CORRUPT


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("color", [0, 128, 255])
def test_a_jpeg_whose_last_rows_have_one_color_is_usable(color: int, progressive: bool, mode: str) -> None:
    image = photograph(96, 96)
    image.paste((color,) * 3, (0, 48, 96, 96))
    data = encoded(image.convert(mode), "JPEG", quality=90, progressive=progressive)
    pixels, stored = decode(data)
    assert (pixels[-16:] == color).all()
    assert stored.jpeg == data


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_with_extraneous_bytes_before_its_end_marker_is_usable(progressive: bool) -> None:
    image = photograph(96, 96)
    image.paste((128,) * 3, (0, 48, 96, 96))
    data = encoded(image, "JPEG", quality=90, progressive=progressive)
    with_bytes = data[:-2] + bytes(7) + data[-2:]
    assert decode(with_bytes)[1].jpeg == with_bytes
    assert (decode(with_bytes)[0] == decode(data)[0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_float_image_with_a_value_that_is_not_finite_is_corrupt(value: float) -> None:
    pixels = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    pixels[5, 7] = value
    with pytest.raises(ImageFailure, match="NaN or infinity") as failure:
        decode(encoded(Image.fromarray(pixels), "TIFF"))
    assert failure.value.reason == Reason.CORRUPT


def check_outcome(data: bytes) -> None:
    """Check that the data decodes or raises ImageFailure; any other exception would stop a labeling job."""
    with contextlib.suppress(ImageFailure):
        pixels, stored = read_photograph(data, 1_000_000, MIN_SIDE)
        assert pixels.shape == (3, stored.height, stored.width)


@given(st.binary(max_size=500))
@example(b"\xff\xd8\xff\xc0\x00\x00")
@example(b"\x89PNG\r\n\x1a\n")
@example(struct.pack(">HHHBHHB", 0xFFD8, 0xFFC0, 8, 8, 0, 0, 3))
def test_random_bytes_raise_only_image_failures(data: bytes) -> None:
    check_outcome(data)
    check_outcome(b"\xff\xd8" + data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "name",
    [
        "normal.jpg",
        "progressive.jpg",
        "cmyk.JPEG",
        "orientation_6.jpg",
        "thumbnail.jpg",
        "png_inside.JPEG",
        "deep_gray.png",
        "animated.gif",
        "picture.webp",
    ],
)
def test_damaged_images_raise_only_image_failures(name: str) -> None:
    original, generator = HOSTILE[name][0], random.Random(0)
    for _ in range(300):
        data = bytearray(original)
        for _ in range(generator.choice((1, 1, 2, 5, 20))):
            position = generator.randrange(min(len(data), generator.choice((40, 700, 10_000))))
            match generator.randrange(4):
                case 0:
                    data[position] = generator.choice((0, 255, generator.randrange(256)))
                case 1:
                    data[position] ^= 1 << generator.randrange(8)
                case 2:
                    del data[position : position + generator.randrange(1, 20)]
                case 3:
                    data[position:position] = generator.randbytes(generator.randrange(1, 12))
        if generator.random() < 0.2:
            del data[generator.randrange(len(data)) :]
        check_outcome(bytes(data))
