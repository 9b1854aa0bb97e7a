"""Samples as a labeller makes them of real photographs, but for the labels, which cost no teacher."""

import itertools

import numpy as np
from PIL import Image
from timing import SHARED_DATA, needed

from common.shards import Sample
from tests.support.datasets import disc_sample

MAP_SIDE = 224


def labelled_photographs(number: int, classes: int | None = None) -> list[Sample]:
    """So many samples, photographs repeated where there are fewer; maps and points are those of other pictures."""
    paths = sorted(needed(SHARED_DATA / "imagenet-sample").rglob("*.JPEG"))
    return [
        _labelled(index, path.read_bytes(), classes)
        for index, path in zip(range(number), itertools.cycle(paths), strict=False)
    ]


def _labelled(index: int, jpeg: bytes, classes: int | None) -> Sample:
    sample = disc_sample(index, classes)
    attention = np.asarray(Image.fromarray(sample.attention).resize((MAP_SIDE, MAP_SIDE)))
    return sample._replace(jpeg=jpeg, attention=attention)
