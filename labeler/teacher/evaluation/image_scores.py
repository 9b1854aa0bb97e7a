"""An image's scores: how well a teacher's map predicts where people look, beside a centre prior and people themselves.

Three predictions of every image are scored against what people did there, by all metrics of `common.saliency`:

- `teacher`: its map at 480 x 640, resized to the image's own size (bilinear, antialiased).
- `centre_prior`: a Gaussian in the middle of the frame, which looks at no image.
- `human_split_half`: the image's subjects are divided at random into two halves. The map of either predicts the map and
  the fixations of the other; the score is the mean of both directions. An image with fewer than 2 subjects has none.

What people did is the map of all their fixations (sigma 19 px at a width of 640), and the fixations themselves.
Shuffled AUC's negatives are all fixations of 10 other images of the data set, drawn for each image.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.fixation_maps import center_prior
from common.fixations import FixatedImage
from common.saliency import is_constant, score_map

OTHER_IMAGES = 10  # whose fixations are shuffled AUC's negatives, as in the MIT benchmark
Scores = dict[str, float]  # by metric; NaN where it is not defined


class Truth(NamedTuple):
    """What people did: their map [H, W], their fixations [n, 2], and fixations on other images [m, 2]."""

    attention: Tensor
    fixations: np.ndarray
    elsewhere: np.ndarray


class ImageScores(NamedTuple):
    """An image's scores by prediction, and whether the teacher's map of it is the same everywhere."""

    image: str
    teacher: Scores
    centre_prior: Scores
    human_split_half: Scores | None
    constant: bool


def score_image(image: FixatedImage, predicted: Tensor, data: Sequence[FixatedImage], seed: int) -> ImageScores:
    """Score the teacher's map [h, w] of an image, the centre prior and the people themselves.

    `data` is the whole data set, from which shuffled AUC's negatives come. The draws hang on the seed and the image's
    name alone, so its scores are the same among whatever other images it is scored.
    """
    generator = np.random.default_rng([seed, zlib.crc32(image.name.encode("utf-8", "surrogateescape"))])
    elsewhere = _elsewhere(image, data, generator)
    device = predicted.device
    truth, divided = _truth(image, elsewhere, device), split_subjects(image, generator)
    return ImageScores(
        image.name,
        score_map(predicted, *truth),
        score_map(center_prior(image.height, image.width).to(device), *truth),
        divided and _agreement(*(_truth(half, elsewhere, device) for half in divided)),
        is_constant(predicted),
    )


def split_subjects(image: FixatedImage, generator: np.random.Generator) -> tuple[FixatedImage, FixatedImage] | None:
    """The image as seen by one half of its subjects and by the other; None where there are fewer than 2.

    Of an odd number of subjects the second half has one more.
    """
    subjects = generator.permutation(np.unique(image.subjects))
    if len(subjects) < 2:
        return None
    first = np.isin(image.subjects, subjects[: len(subjects) // 2])
    one, other = (
        replace(image, fixations=image.fixations[chosen], subjects=image.subjects[chosen], durations=None)
        for chosen in (first, ~first)
    )
    return one, other


def _elsewhere(image: FixatedImage, data: Sequence[FixatedImage], generator: np.random.Generator) -> np.ndarray:
    """The fixations [m, 2] of other images of the data set, drawn by the generator."""
    drawn = [data[index] for index in generator.permutation(len(data))[: OTHER_IMAGES + 1]]
    others = [other.fixations for other in drawn if other.name != image.name][:OTHER_IMAGES]
    return np.concatenate([np.empty((0, 2), np.float32), *others])


def _truth(image: FixatedImage, elsewhere: np.ndarray, device: torch.device) -> Truth:
    return Truth(image.attention_map(image.height, image.width).to(device), image.fixations, elsewhere)


def _agreement(one: Truth, other: Truth) -> Scores:
    """How well either half's map predicts the other half, on average of both directions."""
    there, back = score_map(one.attention, *other), score_map(other.attention, *one)
    return {metric: (there[metric] + back[metric]) / 2 for metric in there}
