import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.images.jpeg import decode_jpeg, hide_exif, read_jpeg_header, read_orientation
from tests.support.data.pictures import (
    encoded,
    hostile_images,
    jpeg,
    photograph,
    resized_jpeg_header,
    rotated_jpeg,
    with_segment,
    with_thumbnail,
)

HOSTILE = hostile_images()


@pytest.mark.parametrize(
    ("data", "components", "start_of_frame"),
    [
        (jpeg(), 3, 0xC0),
        (jpeg(progressive=True), 3, 0xC2),
        (HOSTILE["gray.JPEG"][0], 1, 0xC0),
        (HOSTILE["cmyk.JPEG"][0], 4, 0xC0),
        (HOSTILE["restart_markers.jpg"][0], 3, 0xC0),
        (with_thumbnail(jpeg()), 3, 0xC0),
        (with_thumbnail(jpeg(progressive=True)), 3, 0xC2),
        (jpeg() + b"garbage", 3, 0xC0),
    ],
)
def test_header_reports_size_components_and_start_of_frame(data: bytes, components: int, start_of_frame: int) -> None:
    header = read_jpeg_header(data)
    assert header is not None
    assert (header.width, header.height) == Image.open(io.BytesIO(data)).size == (64, 48)
    assert (len(header.components), header.start_of_frame, header.complete) == (components, start_of_frame, True)
    assert (header.scans > 1) == (start_of_frame == 0xC2)  # those of a thumbnail do not count


def test_header_allows_fill_bytes_before_markers() -> None:
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    filled = data[:frame] + b"\xff\xff" + data[frame:-2] + b"\xff" + data[-2:]
    assert read_jpeg_header(filled) == read_jpeg_header(data)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("marker", [b"\xff\xc4", b"\xff\xda"])
def test_header_allows_bytes_between_segments(progressive: bool, marker: bytes) -> None:
    data = jpeg(progressive=progressive)
    place = data.index(marker)
    padded = data[:place] + b"\0\0ab" + data[place:]
    assert read_jpeg_header(padded) == read_jpeg_header(data)
    assert torch.equal(decode_jpeg(padded), decode_jpeg(data))


def test_end_marker_of_a_thumbnail_is_ignored() -> None:
    data = with_thumbnail(jpeg())
    assert data.count(b"\xff\xd9") == 2
    header = read_jpeg_header(data[:-2])
    assert header is not None
    assert not header.complete


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8" + b"\xff" * 50, bytes(20)]
)
def test_header_is_none_without_a_frame(data: bytes) -> None:
    assert read_jpeg_header(data) is None


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_header_reads_any_size(width: int, height: int) -> None:
    header = read_jpeg_header(resized_jpeg_header(jpeg(), width, height))
    assert header is not None
    assert (header.width, header.height) == (width, height)


EXACT = {"quality": 90, "subsampling": 0}


@pytest.mark.parametrize(
    ("data", "is_simple"),
    [
        (jpeg(**EXACT), True),
        (encoded(photograph().convert("L"), "JPEG"), True),
        (with_thumbnail(jpeg(**EXACT)), True),
        (jpeg(**EXACT, restart_marker_blocks=2), True),
        (jpeg(subsampling=1), False),
        (jpeg(subsampling=2), False),
        (jpeg(**EXACT, progressive=True), False),
        (encoded(photograph().convert("L"), "JPEG", progressive=True), False),
        (encoded(photograph().convert("CMYK"), "JPEG", **EXACT), False),
        (encoded(photograph(), "JPEG", **EXACT, keep_rgb=True), False),  # RGB, marked by component names and by Adobe
    ],
    ids=["4:4:4", "gray", "thumbnail", "restarts", "4:2:2", "4:2:0", "progressive", "gray progressive", "CMYK", "RGB"],
)
def test_simple_jpegs_are_baseline_and_gray_or_without_subsampled_chroma(data: bytes, is_simple: bool) -> None:
    header = read_jpeg_header(data)
    assert header is not None
    assert header.is_simple == is_simple


def test_jpeg_that_declares_another_color_space_is_not_simple() -> None:
    data = with_segment(jpeg(**EXACT), 0xEE, b"Adobe\0\x64\0\0\0\0\0")  # transform 0: no YCbCr
    header = read_jpeg_header(data)
    assert header is not None
    assert not header.is_simple


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_stored_whatever_the_orientation(orientation: int) -> None:
    data = rotated_jpeg(orientation, 40, 24)
    pixels = decode_jpeg(data)
    assert pixels.shape == (3, 24, 40)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2
    assert torch.equal(pixels, decode_jpeg(rotated_jpeg(1, 40, 24)))
    assert read_orientation(data) == orientation


def test_orientation_is_found_behind_another_segments_thumbnail() -> None:
    data = with_segment(rotated_jpeg(6, 40, 24), 0xED, jpeg(16, 12))  # its scan is not the first of the image
    assert read_orientation(data) == 6
    assert decode_jpeg(data).shape == (3, 24, 40)


def test_segment_of_the_kind_of_exif_without_its_name_is_no_exif() -> None:
    data = rotated_jpeg(6, 40, 24).replace(b"Exif", b"Exxx")
    assert read_orientation(data) == 1
    assert decode_jpeg(data).shape == (3, 24, 40)


def test_jpeg_without_exif_is_not_copied() -> None:
    data = jpeg()
    for unchanged in (data, data + b"\xff\xe1\0\x08Exif\0\0"):  # what follows the image is not its metadata
        assert hide_exif(unchanged) is unchanged


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", jpeg()[:300], jpeg()[: len(jpeg()) // 2], b"text" * 100])
def test_damaged_jpeg_is_a_value_error_in_plain_words(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[\w: ()-]+\.?$"):
        decode_jpeg(data)
