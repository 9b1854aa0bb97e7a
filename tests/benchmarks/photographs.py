"""Samples of real photographs with labels of synthetic images, which need no teacher."""

import itertools

import numpy as np
from PIL import Image
from timing import SHARED_DATA, require_path

from common.shards import Sample
from tests.support.data.datasets import disc_sample

MAP_SIDE = 224


def labeled_photographs(number: int, classes: int | None = None) -> list[Sample]:
    """Return `number` samples; photographs are repeated if there are fewer. Maps and points are of synthetic images."""
    paths = sorted(require_path(SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))
    return [
        _labeled_sample(index, path.read_bytes(), classes)
        for index, path in zip(range(number), itertools.cycle(paths), strict=False)
    ]


def _labeled_sample(index: int, jpeg: bytes, classes: int | None) -> Sample:
    sample = disc_sample(index, classes)
    attention = np.asarray(Image.fromarray(sample.attention).resize((MAP_SIDE, MAP_SIDE)))
    return sample._replace(jpeg=jpeg, attention=attention)
