"""What is learnt from: photographs with fixations, and photographs for which a stronger teacher gives the map."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import ImageFailure, UserError
from common.fixation_maps import blur_fixations
from common.fixations import FixatedImage, exclusion_notes, open_fixations, split_images
from common.fixations.data import SALICON_SIGMA
from common.fixations.split import duplicate_groups
from common.images import read_photograph
from common.sources import Source, open_source
from common.sources.listing import ImageRef
from labeler.teacher.training.views import View, crop_pixels, crop_points, draw_view

TARGET_SIZE = (120, 160)  # height, width of the maps that are learnt: smooth ones, the finest tap has 60 x 80
MOST_PIXELS = 100_000_000


class TeacherExample(NamedTuple):
    """One view of a photograph: uint8 [3, 480, 640], its colour factors, the human map [120, 160] and fixations.

    Without fixations (`labelled` false) the map is 0: the stronger teacher gives it.
    """

    pixels: Tensor
    colours: tuple[float, float, float]
    target: Tensor
    points: np.ndarray
    labelled: bool


@dataclass(frozen=True)
class Photograph:
    """A photograph without fixations."""

    source: Source
    image: ImageRef

    def pixels(self) -> Tensor:
        """Uint8 [3, H, W]. Raises ImageFailure."""
        return read_photograph(self.source.read(self.image), MOST_PIXELS, 1)[0]


class TrainingData(NamedTuple):
    """What there is to learn from and, by data set, what to validate on; notes tell what was left out."""

    human: list[FixatedImage]
    unlabelled: list[FixatedImage | Photograph]
    validation: dict[str, list[FixatedImage]]
    notes: list[str]


def open_training_data(data: Sequence[str], distill: Sequence[str], validation: float, seed: int) -> TrainingData:
    """Open the data sets and keep images of each for validation. Raises UserError.

    A data set's validation images are those of its own split "val", or else drawn by the seed and their names alone, so
    that two data sets of the same photographs (OSIE's eye and mouse) keep the same. No picture that validates in one
    data set is learnt from in another.
    """
    train: list[FixatedImage] = []
    kept: dict[str, list[FixatedImage]] = {}
    notes: list[str] = []
    for location in data:
        images, left_out, first = open_fixations(location)
        notes += exclusion_notes(location, left_out, first)
        if {image.split for image in images} >= {"train", "val"}:
            learnt = [image for image in images if image.split == "train"]
            kept[location] = [image for image in images if image.split == "val"]
        else:
            learnt, kept[location] = split_images(images, validation, seed)
        train += learnt
    validating = [image for images in kept.values() for image in images]
    train = _without_copies(train, validating) if len(data) > 1 else train
    if not train:
        raise UserError(f"--data {' '.join(data)}: every training image is also a validation image of another data set")
    unlabelled = _unlabelled(distill, train, validating) if distill else []
    return TrainingData(train, unlabelled, kept, notes)


def make_human_example(
    image: FixatedImage, generator: np.random.Generator, zoom: float, colour: float
) -> TeacherExample:
    """A random view of a photograph with the fixations that fall into it."""
    view = draw_view(generator, zoom, colour)
    return make_view_example(image, view)


def make_view_example(image: FixatedImage, view: View) -> TeacherExample:
    """A view of a photograph with the fixations that fall into it."""
    points = crop_points(image.fixations, view)
    height, width = TARGET_SIZE
    target = blur_fixations(points, height, width, SALICON_SIGMA * width)
    return TeacherExample(crop_pixels(image.pixels(), view), view.colours, target, points, True)


def make_unlabeled_example(
    photograph: FixatedImage | Photograph, generator: np.random.Generator, zoom: float, colour: float
) -> TeacherExample:
    """A random view of a photograph, without a map. Raises ImageFailure."""
    view = draw_view(generator, zoom, colour)
    return TeacherExample(
        crop_pixels(photograph.pixels(), view), view.colours, torch.zeros(TARGET_SIZE), np.zeros((0, 2)), False
    )


def _without_copies(train: list[FixatedImage], validating: list[FixatedImage]) -> list[FixatedImage]:
    """The training images that show no picture which validates."""
    paths = {image.path.resolve() for image in validating}
    groups = duplicate_groups([*train, *validating])
    seen = {id(image) for group in groups if any(other.path.resolve() in paths for other in group) for image in group}
    return [image for image in train if id(image) not in seen]


def _unlabelled(
    locations: Sequence[str], train: list[FixatedImage], validating: list[FixatedImage]
) -> list[FixatedImage | Photograph]:
    """The photographs of the sources, and those of the training images; each file once, none that validates."""
    seen = {image.path.resolve() for image in validating}
    found: list[FixatedImage | Photograph] = []
    for image in train:
        if image.path.resolve() not in seen:
            seen.add(image.path.resolve())
            found.append(image)
    for location in locations:
        source = open_source(location, "--distill")
        listed = [ImageRef(**row) for row in source.list().table.to_pylist()]
        if not listed:
            raise UserError(f"--distill {location}: there are no images in it")
        found += [Photograph(source, ref) for ref in listed if (Path(location) / ref.uri).resolve() not in seen]
    return found


def warn_of(photograph: Photograph, failure: ImageFailure) -> None:
    """Say that an unlabelled photograph is passed over."""
    print(f"{photograph.image.uri}: passed over ({failure})", file=sys.stderr)
