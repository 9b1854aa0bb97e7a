"""Training examples: an augmented view of a photograph, with its human attention map if it has fixations."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.fixations import FixatedImage
from common.fixations.data import SALICON_SIGMA
from common.fixations.maps import blur_fixations
from labeler.teacher.training.data import Photograph
from labeler.teacher.training.views import View, crop_fixations, crop_pixels

TARGET_SIZE = (120, 160)  # height, width of the target maps, which are smooth; the finest feature level is 60 x 80


class TeacherExample(NamedTuple):
    """One view of a photograph, and what the network is trained to predict for it.

    Without fixations `target` holds zeros, to be replaced by the distillation teacher's map.
    """

    pixels: Tensor  # uint8 [3, 480, 640]
    color_factors: tuple[float, float, float]  # not yet applied to the pixels
    target: Tensor  # human attention map, float32 [120, 160]
    fixations: np.ndarray  # [n, 2] of x, y in [0, 1] of the view
    has_fixations: bool


def make_fixated_example(image: FixatedImage, view: View) -> TeacherExample:
    """Return a view of an image with the fixations that it shows. Raises UserError if the image cannot be read."""
    fixations = crop_fixations(image.fixations, view)
    height, width = TARGET_SIZE
    target = blur_fixations(fixations, height, width, SALICON_SIGMA * width)
    return TeacherExample(crop_pixels(image.pixels(), view), view.color_factors, target, fixations, True)


def make_distillation_example(photograph: FixatedImage | Photograph, view: View) -> TeacherExample:
    """Return a view of a photograph without a target. Raises ImageFailure or UserError if it cannot be read."""
    pixels = crop_pixels(photograph.pixels(), view)
    return TeacherExample(pixels, view.color_factors, torch.zeros(TARGET_SIZE), np.zeros((0, 2)), False)
