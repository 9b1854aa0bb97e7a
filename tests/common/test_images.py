import contextlib
import io
import random
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from common.errors import ImageFailure, Reason
from common.images import StoredImage, read_jpeg_header, read_photograph
from tests.support.pictures import (
    encoded,
    exif,
    grey_ramp,
    half_transparent,
    hostile_images,
    jpeg,
    photograph,
    resized_jpeg_header,
    turned_jpeg,
    with_segment,
    with_thumbnail,
)

MAX_PIXELS, MIN_SIDE = 100_000_000, 8
HOSTILE = hostile_images()
USABLE = [name for name, (_, reason) in HOSTILE.items() if reason is None]
KEPT = ["normal.jpg", "grey.JPEG", "progressive.jpg", "restart_markers.jpg", "trailing_garbage.jpg", "thumbnail.jpg"]


def read(data: bytes) -> tuple[np.ndarray, StoredImage]:
    """Pixels as Pillow and NumPy have them, [H, W, 3]."""
    pixels, stored = read_photograph(data, MAX_PIXELS, MIN_SIDE)
    return pixels.permute(1, 2, 0).numpy(), stored


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def difference(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in USABLE])
def test_an_unusable_image_is_left_out_with_its_reason(name: str) -> None:
    data, reason = HOSTILE[name]
    with pytest.raises(ImageFailure) as failure:
        read_photograph(data, MAX_PIXELS, MIN_SIDE)
    assert failure.value.reason == reason
    assert failure.value.message


@pytest.mark.parametrize("name", USABLE)
def test_a_usable_image_gives_pixels_in_the_frame_of_a_jpeg_that_pillow_reads(name: str) -> None:
    pixels, stored = read(HOSTILE[name][0])
    assert pixels.dtype == np.uint8
    assert pixels.shape == (stored.height, stored.width, 3)
    assert Image.open(io.BytesIO(stored.jpeg)).format == "JPEG"
    assert difference(pixels, pillow(stored.jpeg)) < 1


@pytest.mark.parametrize("name", [*KEPT, *(f"orientation_{value}.jpg" for value in range(1, 9))])
def test_a_jpeg_in_rgb_or_grey_keeps_its_own_bytes(name: str) -> None:
    data = HOSTILE[name][0]
    _, stored = read(data)
    assert stored.jpeg == data
    assert stored.reencoded_from == ""


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("png_inside.JPEG", "PNG RGB"),
        ("cmyk.JPEG", "JPEG CMYK"),
        ("deep_grey.png", "PNG I;16"),
        ("transparent.png", "PNG RGBA"),
        ("animated.gif", "GIF P"),
        ("picture.webp", "WEBP RGB"),
    ],
)
def test_any_other_format_is_encoded_anew_and_named(name: str, source: str) -> None:
    data = HOSTILE[name][0]
    _, stored = read(data)
    assert stored.reencoded_from == source
    header = read_jpeg_header(stored.jpeg)
    assert header is not None
    assert (header.width, header.height, header.components) == (stored.width, stored.height, 3)


def test_encoding_anew_gives_the_same_bytes_each_time() -> None:
    data = encoded(photograph(), "PNG")
    assert read(data)[1] == read(data)[1]


@pytest.mark.parametrize("name", ["png_inside.JPEG", "cmyk.JPEG", "picture.webp"])
def test_encoding_anew_keeps_the_colours(name: str) -> None:
    assert difference(read(HOSTILE[name][0])[0], np.asarray(photograph())) < 4


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)])
def test_cmyk_is_not_inverted(colour: tuple[int, int, int]) -> None:
    pixels, _ = read(encoded(Image.new("RGB", (32, 32), colour).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled_and_not_clipped(kind: str) -> None:
    pixels, _ = read(encoded(Image.fromarray(grey_ramp()), kind))
    assert np.abs(pixels - (grey_ramp() / 257)[:, :, None]).max() < 4
    assert (np.diff(pixels[:, 128, 0].astype(int)) >= -1).all()


def test_float_pixels_in_the_unit_range_are_read_as_dark_to_bright() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    pixels, _ = read(encoded(Image.fromarray(ramp), "TIFF"))
    assert np.abs(pixels[:, :, 0] - ramp * 255).max() < 4


@pytest.mark.parametrize(
    "data",
    [
        encoded(half_transparent(), "PNG"),
        encoded(half_transparent(), "WEBP", lossless=True),
        encoded(half_transparent().convert("LA"), "PNG"),
        encoded(half_transparent(), "GIF"),
    ],
    ids=["RGBA PNG", "WebP", "grey with alpha", "GIF"],
)
def test_transparency_shows_white(data: bytes) -> None:
    pixels, _ = read(data)
    assert pixels[:, :24].max() < 16
    assert pixels[:, 40:].min() > 239


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    pixels, _ = read(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_reports_its_orientation_and_its_pixels_stay_as_stored(orientation: int) -> None:
    pixels, stored = read(turned_jpeg(orientation))
    assert stored.orientation == orientation
    assert (stored.width, stored.height) == (64, 48)
    assert difference(pixels, pillow(jpeg())) < 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_encoded_anew_is_upright(kind: str, orientation: int) -> None:
    image = photograph().convert("CMYK") if kind == "CMYK" else photograph()
    data = encoded(image, "JPEG" if kind == "CMYK" else kind, quality=95, exif=exif(orientation))
    pixels, stored = read(data)
    assert stored.orientation == 1
    assert Image.open(io.BytesIO(stored.jpeg)).getexif().get(0x0112, 1) == 1
    assert difference(pixels, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))) < 6


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_a_senseless_orientation_counts_as_upright(value: int) -> None:
    assert read(turned_jpeg(value))[1].orientation == 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(st.binary(max_size=200))
def test_broken_exif_does_not_make_the_picture_unusable(content: bytes) -> None:
    pixels, stored = read(with_segment(jpeg(), 0xE1, b"Exif\0\0" + content))
    assert 1 <= stored.orientation <= 8
    assert pixels.shape == (48, 64, 3)


def test_an_orientation_behind_a_large_colour_profile_is_found() -> None:
    data = turned_jpeg(6)
    for _ in range(2):
        data = with_segment(data, 0xE2, b"ICC_PROFILE\0" + bytes(60_000))
    assert read(data)[1].orientation == 6


def test_a_jpeg_with_trailing_garbage_decodes_as_without() -> None:
    assert (read(HOSTILE["trailing_garbage.jpg"][0])[0] == read(jpeg())[0]).all()


def test_grey_becomes_three_equal_channels() -> None:
    pixels, _ = read(HOSTILE["grey.JPEG"][0])
    assert (pixels == pixels[:, :, :1]).all()


def test_the_limit_of_pixels_is_inclusive() -> None:
    assert read_photograph(jpeg(64, 48), 64 * 48, MIN_SIDE)[1].width == 64
    for data in (jpeg(64, 48), encoded(photograph(64, 48), "PNG")):
        with pytest.raises(ImageFailure, match="64 x 48 pixels, over max_pixels = 3071") as failure:
            read_photograph(data, 64 * 48 - 1, MIN_SIDE)
        assert failure.value.reason == Reason.TOO_LARGE


def test_the_least_side_is_inclusive() -> None:
    assert read_photograph(jpeg(64, 8), MAX_PIXELS, 8)[1].height == 8
    for data in (jpeg(64, 7), encoded(photograph(7, 64), "PNG")):
        with pytest.raises(ImageFailure, match="a side below min_side = 8") as failure:
            read_photograph(data, MAX_PIXELS, 8)
        assert failure.value.reason == Reason.TOO_SMALL


def test_a_png_too_wide_for_jpeg_is_left_out_with_a_reason() -> None:
    with pytest.raises(ImageFailure) as failure:
        read(encoded(Image.new("RGB", (65_501, 8)), "PNG"))
    assert failure.value.reason == Reason.TOO_LARGE


def test_the_widest_png_that_jpeg_can_hold_is_usable() -> None:
    assert read(encoded(Image.new("RGB", (65_500, 8)), "PNG"))[1].width == 65_500


@pytest.mark.parametrize("progressive", [False, True])
def test_every_cut_of_a_jpeg_inside_its_picture_is_truncated(progressive: bool) -> None:
    data = jpeg(progressive=progressive)
    for cut in range(data.index(b"\xff\xda"), len(data), 7):
        with pytest.raises(ImageFailure) as failure:
            read_photograph(data[:cut], MAX_PIXELS, MIN_SIDE)
        assert failure.value.reason == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("data", "components", "frame"),
    [
        (jpeg(), 3, 0xC0),
        (jpeg(progressive=True), 3, 0xC2),
        (HOSTILE["grey.JPEG"][0], 1, 0xC0),
        (HOSTILE["cmyk.JPEG"][0], 4, 0xC0),
        (HOSTILE["restart_markers.jpg"][0], 3, 0xC0),
        (with_thumbnail(jpeg()), 3, 0xC0),
        (with_thumbnail(jpeg(progressive=True)), 3, 0xC2),
        (jpeg() + b"garbage", 3, 0xC0),
    ],
)
def test_the_header_tells_size_components_and_frame(data: bytes, components: int, frame: int) -> None:
    header = read_jpeg_header(data)
    assert header is not None
    assert (header.width, header.height) == Image.open(io.BytesIO(data)).size == (64, 48)
    assert (header.components, header.frame, header.complete) == (components, frame, True)


def test_the_header_allows_fill_bytes_before_markers() -> None:
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    filled = data[:frame] + b"\xff\xff" + data[frame:-2] + b"\xff" + data[-2:]
    assert read_jpeg_header(filled) == read_jpeg_header(data)


def test_the_end_marker_of_a_thumbnail_does_not_count() -> None:
    data = with_thumbnail(jpeg())
    assert data.count(b"\xff\xd9") == 2
    header = read_jpeg_header(data[:-2])
    assert header is not None
    assert not header.complete


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8" + b"\xff" * 50, bytes(20)]
)
def test_there_is_no_header_without_a_frame(data: bytes) -> None:
    assert read_jpeg_header(data) is None


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_the_header_reads_any_size(width: int, height: int) -> None:
    header = read_jpeg_header(resized_jpeg_header(jpeg(), width, height))
    assert header is not None
    assert (header.width, header.height) == (width, height)


def check_outcome(data: bytes) -> None:
    """Usable or left out: any other exception would stop the job."""
    with contextlib.suppress(ImageFailure):
        pixels, stored = read_photograph(data, 1_000_000, MIN_SIDE)
        assert pixels.shape == (3, stored.height, stored.width)


@given(st.binary(max_size=500))
@example(b"\xff\xd8\xff\xc0\x00\x00")
@example(b"\x89PNG\r\n\x1a\n")
@example(struct.pack(">HHHBHHB", 0xFFD8, 0xFFC0, 8, 8, 0, 0, 3))
def test_random_bytes_raise_nothing_but_image_failures(data: bytes) -> None:
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
        "deep_grey.png",
        "animated.gif",
        "picture.webp",
    ],
)
def test_damaged_images_raise_nothing_but_image_failures(name: str) -> None:
    original, generator = HOSTILE[name][0], random.Random(0)
    for _ in range(300):
        data = bytearray(original)
        for _ in range(generator.choice((1, 1, 2, 5, 20))):
            place = generator.randrange(min(len(data), generator.choice((40, 700, 10_000))))
            match generator.randrange(4):
                case 0:
                    data[place] = generator.choice((0, 255, generator.randrange(256)))
                case 1:
                    data[place] ^= 1 << generator.randrange(8)
                case 2:
                    del data[place : place + generator.randrange(1, 20)]
                case 3:
                    data[place:place] = generator.randbytes(generator.randrange(1, 12))
        if generator.random() < 0.2:
            del data[generator.randrange(len(data)) :]
        check_outcome(bytes(data))
