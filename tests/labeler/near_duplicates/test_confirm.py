"""Confirmation by pixels accepts copies of a photograph and rejects other photographs."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from labeler.near_duplicates.confirm import MIN_CORRELATION, correlate, make_views
from tests.support.data.copies import PHOTOGRAPHS, crop, recompress, resize


def correlation(first: Image.Image, second: Image.Image) -> float:
    [value] = correlate(*(make_views(image.convert("L"))[None] for image in (first, second)))
    return float(value)


def copy_all(image: Image.Image) -> Image.Image:
    return recompress(resize(crop(image)))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized": resize,
    "recompressed": recompress,
    "cropped": crop,
    "all": copy_all,
    "gray": lambda image: image.convert("L"),
    "brighter": lambda image: image.point(lambda value: value * 0.7 + 60),
}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_copies_are_confirmed_in_both_orders(
    photograph: object, make_copy: Callable[[Image.Image], Image.Image]
) -> None:
    assert hasattr(photograph, "read_bytes")
    image = Image.open(io.BytesIO(photograph.read_bytes())).convert("RGB")
    assert correlation(image, make_copy(image)) == pytest.approx(correlation(make_copy(image), image))
    assert correlation(image, make_copy(image)) > MIN_CORRELATION + 0.03


def test_other_photographs_and_mirrored_ones_are_not_confirmed() -> None:
    images = [Image.open(path).convert("RGB") for path in PHOTOGRAPHS]
    pairs = [(first, second) for i, first in enumerate(images) for second in images[:i]]
    pairs += [(image, ImageOps.mirror(image)) for image in images]
    assert max(correlation(*pair) for pair in pairs) < MIN_CORRELATION - 0.3


def test_images_of_the_same_shapes_with_other_details_are_not_confirmed() -> None:
    generator = np.random.default_rng(0)
    shapes = Image.open(PHOTOGRAPHS[0]).convert("L").resize((32, 32)).filter(ImageFilter.GaussianBlur(3))
    first, second = (
        Image.fromarray((np.asarray(shapes) + generator.normal(0, 20, (32, 32))).clip(0, 255).astype(np.uint8))
        for _ in range(2)
    )
    assert correlation(first, second) < MIN_CORRELATION - 0.3


def test_images_with_the_same_frame_are_not_confirmed() -> None:
    framed = []
    for path in PHOTOGRAPHS[:2]:
        frame = Image.new("L", (160, 160))
        frame.paste(Image.open(path).convert("L").filter(ImageFilter.GaussianBlur(9)).resize((120, 120)), (20, 20))
        framed.append(frame)
    assert correlation(*framed) < MIN_CORRELATION - 0.1


def test_images_without_details_are_not_confirmed() -> None:
    plain = Image.new("L", (64, 48), 128)
    assert correlation(plain, plain) == 0
