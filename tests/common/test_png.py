"""Tests of the fast PNG encoder, with the PNG decoders of other projects."""

import io
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torchcodec.decoders
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from isal import isal_zlib
from PIL import Image

from common.png import encode_gray_png
from tests.support.data.maps import read_chunks, smooth_map

DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "Pillow": lambda content: np.asarray(Image.open(io.BytesIO(content))),
    "OpenCV": lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED),
    "torchcodec": lambda content: torchcodec.decoders.decode_png(content, mode="GRAY")[0].numpy(),
    "webdataset": lambda content: webdataset.autodecode.imagehandler("l8")(".png", content),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (37, 50), (224, 224), (500, 3)])
def test_decoders_of_other_projects_read_the_pixels(decoder: str, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = DECODERS[decoder](encode_gray_png(pixels))
    assert (found == pixels).all()


@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_any_pixels_are_read_back(pixels: np.ndarray) -> None:
    image = Image.open(io.BytesIO(encode_gray_png(pixels)))
    assert image.mode == "L"
    assert (np.asarray(image) == pixels).all()


def test_every_row_has_the_filter_up_and_pixels_may_be_a_view() -> None:
    attention = smooth_map(224)
    content = encode_gray_png(attention)
    chunks = read_chunks(content)
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert set(zlib.decompress(chunks[b"IDAT"])[:: 224 + 1]) == {2}
    assert len(content) < 224 * 224 / 3
    turned = np.asfortranarray(attention)[::-1, ::-1]
    assert encode_gray_png(turned) == encode_gray_png(np.ascontiguousarray(turned))


@pytest.mark.parametrize("size", [8, 224])
def test_bytes_are_those_of_isa_l_at_level_1(size: int) -> None:
    """Data sets are resumed to the same bytes, so the settings of the encoder must not change."""
    pixels = smooth_map(size)
    differences = np.diff(pixels, axis=0, prepend=np.zeros((1, size), np.uint8))
    rows = b"".join(b"\2" + row.tobytes() for row in differences)
    assert read_chunks(encode_gray_png(pixels))[b"IDAT"] == isal_zlib.compress(rows, level=1)
