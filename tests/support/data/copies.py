"""Copies of photographs as they occur in data sets: resized, compressed again, cropped, mirrored."""

import io
from collections.abc import Callable

from PIL import Image, ImageOps

from tests.support.jobs import ROOT

# photographs of different subjects that the project contains
PHOTOGRAPHS = [*sorted((ROOT / "common/images/check_photographs").glob("*.jpg")), ROOT / "labeler/example.jpg"]


def resize(image: Image.Image) -> Image.Image:
    """Return a copy with three quarters of the width and height."""
    return image.resize((round(image.width * 0.75), round(image.height * 0.75)), Image.Resampling.BICUBIC)


def recompress(image: Image.Image) -> Image.Image:
    """Return a copy that was stored as JPEG with quality 70."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return Image.open(buffer).convert("RGB")


def crop(image: Image.Image) -> Image.Image:
    """Return a copy without 2.5 % of the image on each side."""
    x, y = round(image.width * 0.025), round(image.height * 0.025)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized": resize,
    "recompressed": recompress,
    "flipped": ImageOps.mirror,
    "cropped": crop,
    "all": lambda image: recompress(resize(ImageOps.mirror(crop(image)))),
}
