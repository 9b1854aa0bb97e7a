"""Scores of a teacher on images with human fixations, next to a center prior and the agreement among humans.

Three predictions of each image are scored by all metrics of `common.saliency`:

- `teacher`: the teacher's map at 480 x 640, resized to the size of the image (bilinear, antialiased).
- `centre_prior`: a Gaussian at the center of the frame, which does not depend on the image.
- `human_split_half`: the image's subjects are divided at random into two halves. The map of each half predicts the map
  and the fixations of the other one, and the score is the mean of both directions. It needs at least 2 subjects.

The reference is the human attention map (all fixations, blurred with a sigma of 19 pixels at a width of 640) and the
fixations themselves. The negatives of shuffled AUC are all fixations of 10 random other images of the data set.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.fixations import FixatedImage
from common.fixations.maps import center_prior
from common.parallel import available_cores, in_order
from common.saliency import is_constant, score_map
from labeler.teacher.evaluation.predict import predict_map
from labeler.teacher.model import TeacherModel

NEGATIVE_IMAGES = 10  # images whose fixations are shuffled AUC's negatives, as in the MIT saliency benchmark
Scores = dict[str, float]  # by metric; NaN if the metric is not defined


class ImageScores(NamedTuple):
    """Scores of one image by prediction; `constant` marks a teacher's map with the same value everywhere."""

    image: str
    teacher: Scores
    centre_prior: Scores
    human_split_half: Scores | None
    constant: bool


class Reference(NamedTuple):
    """What a prediction is compared with, in the order of `score_map`'s arguments."""

    attention: Tensor  # human attention map [H, W]
    fixations: np.ndarray  # [n, 2]
    negatives: np.ndarray  # fixations on other images [m, 2]


def score_images(
    teacher: TeacherModel,
    images: Iterable[FixatedImage],
    data_set: Sequence[FixatedImage],
    device: torch.device,
    seed: int,
) -> Iterator[ImageScores]:
    """Run the teacher on images and yield their scores in the same order.

    The teacher runs in the caller's thread, one image at a time, while other threads score earlier maps; the number of
    maps in between is bounded. Limits PyTorch to one thread per operation. Raises UserError if an image cannot be read
    or its map cannot be scored.

    Args:
        teacher: the teacher, on `device`.
        images: the images to score.
        data_set: all images of their data set, from which shuffled AUC's negatives are drawn.
        device: where maps are predicted and scored.
        seed: random seed of the split halves and the negatives.
    """
    threads = available_cores()
    torch.set_num_threads(1)  # maps are small, so several images at once use the cores better
    predictions = ((image, predict_map(teacher, image, device)) for image in images)
    with ThreadPoolExecutor(threads) as pool:
        yield from in_order(pool, lambda pair: score_image(*pair, data_set, seed), predictions, ahead=2 * threads)


def score_image(image: FixatedImage, predicted: Tensor, data_set: Sequence[FixatedImage], seed: int) -> ImageScores:
    """Score the teacher's map [h, w] of an image, the center prior, and one half of the subjects against the other.

    Random choices depend only on the seed and the image's name, so an image has the same scores whichever other images
    are scored. `data_set` holds all images, from which shuffled AUC's negatives are drawn.
    """
    generator = np.random.default_rng([seed, zlib.crc32(image.name.encode("utf-8", "surrogateescape"))])
    negatives = _draw_negatives(image, data_set, generator)
    device = predicted.device
    reference = _make_reference(image, negatives, device)
    halves = split_subjects(image, generator)
    return ImageScores(
        image.name,
        score_map(predicted, *reference),
        score_map(center_prior(image.height, image.width).to(device), *reference),
        None if halves is None else _score_halves(*(_make_reference(half, negatives, device) for half in halves)),
        is_constant(predicted),
    )


def split_subjects(image: FixatedImage, generator: np.random.Generator) -> tuple[FixatedImage, FixatedImage] | None:
    """Return the image twice, each with the fixations of a random half of its subjects; None for fewer than 2 subjects.

    If the number of subjects is odd, the second half has one more.
    """
    subjects = generator.permutation(np.unique(image.subjects))
    if len(subjects) < 2:
        return None
    in_first_half = np.isin(image.subjects, subjects[: len(subjects) // 2])
    first, second = (
        replace(image, fixations=image.fixations[mask], subjects=image.subjects[mask], durations=None)
        for mask in (in_first_half, ~in_first_half)
    )
    return first, second


def _draw_negatives(
    image: FixatedImage, data_set: Sequence[FixatedImage], generator: np.random.Generator
) -> np.ndarray:
    """Return the fixations [m, 2] of random other images of the data set."""
    chosen = [data_set[index] for index in generator.permutation(len(data_set))[: NEGATIVE_IMAGES + 1]]
    others = [other.fixations for other in chosen if other.name != image.name][:NEGATIVE_IMAGES]
    return np.concatenate([np.empty((0, 2), np.float32), *others])


def _make_reference(image: FixatedImage, negatives: np.ndarray, device: torch.device) -> Reference:
    return Reference(image.attention_map(image.height, image.width).to(device), image.fixations, negatives)


def _score_halves(first: Reference, second: Reference) -> Scores:
    """Score the map of each half against the other half, and return the mean of both directions."""
    forward, backward = score_map(first.attention, *second), score_map(second.attention, *first)
    return {metric: (forward[metric] + backward[metric]) / 2 for metric in forward}
