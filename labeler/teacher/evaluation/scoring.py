"""Scores of a teacher on images with human fixations, next to a centered Gaussian and the agreement among humans.

Three predictions of each image are scored by all metrics of `common.alignment`, whose center prior is the mean human
attention map of the other images:

- `teacher`: the teacher's map at 480 x 640, resized to the size of the image (bilinear, antialiased).
- `centre_prior`: a Gaussian at the center of the frame, which uses neither the image nor the data set.
- `human_split_half`: the image's subjects are divided at random into two halves. The map of each half predicts the map
  and the fixations of the other one, and the score is the mean of both directions. It needs at least 2 subjects.

The reference is the human attention map (all fixations, blurred with a sigma of 19 pixels at a width of 640) and the
fixations themselves. The negatives of shuffled AUC are all fixations of 10 random other images of the data set.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.alignment import Reference, References, Scores, score_prediction
from common.fixations import FixatedImage
from common.fixations.maps import center_prior
from common.parallel import available_cores, in_order
from common.saliency import is_constant
from labeler.teacher.evaluation.predict import predict_map
from labeler.teacher.model import TeacherModel


class ImageScores(NamedTuple):
    """Scores of one image by prediction; `constant` marks a teacher's map with the same value everywhere."""

    image: str
    teacher: Scores
    centre_prior: Scores
    human_split_half: Scores | None
    constant: bool


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
        data_set: all images of their data set, from which the references are made.
        device: where maps are predicted and scored.
        seed: random seed of the split halves, the negatives and the permuted targets.
    """
    threads = available_cores()
    torch.set_num_threads(1)  # maps are small, so several images at once use the cores better
    references = References(data_set, seed)
    predictions = ((image, predict_map(teacher, image, device)) for image in images)
    with ThreadPoolExecutor(threads) as pool:
        yield from in_order(pool, lambda pair: score_image(*pair, references), predictions, ahead=2 * threads)


def score_image(image: FixatedImage, predicted: Tensor, references: References) -> ImageScores:
    """Score the teacher's map [h, w] of an image, the centered Gaussian, and half of the subjects against the others.

    Random choices depend only on the seed and the image's name, so an image has the same scores whichever other images
    are scored.
    """
    generator = references.generator(image)
    reference = references.reference(image, generator).to(predicted.device)
    return ImageScores(
        image.name,
        score_prediction(predicted, reference),
        score_prediction(center_prior(image.height, image.width).to(predicted.device), reference),
        _score_halves(image, reference, generator),
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


def _score_halves(image: FixatedImage, reference: Reference, generator: np.random.Generator) -> Scores | None:
    """Score the map of each half of the subjects against the other half, and return the mean of both directions."""
    halves = split_subjects(image, generator)
    if halves is None:
        return None
    first, second = (
        reference._replace(
            attention=half.attention_map(image.height, image.width).to(reference.attention.device),
            fixations=half.fixations,
        )
        for half in halves
    )
    forward, backward = score_prediction(first.attention, second), score_prediction(second.attention, first)
    return {metric: (forward[metric] + backward[metric]) / 2 for metric in forward}
