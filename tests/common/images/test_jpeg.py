import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from common.images.jpeg import read_jpeg_header
from tests.support.pictures import (
    hostile_images,
    jpeg,
    resized_jpeg_header,
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
