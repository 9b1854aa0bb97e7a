"""Images that a teacher is trained and validated on: photographs with fixations, and others for distillation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from common.errors import UserError
from common.fixations import FixatedImage, exclusion_notes, open_fixations, split_images
from common.fixations.split import group_duplicates
from common.images import read_photograph
from common.sources import Source, open_source
from common.sources.listing import ImageRef

MAX_PIXELS = 100_000_000  # larger photographs are skipped


@dataclass(frozen=True)
class Photograph:
    """A photograph without fixations, read from its source on demand."""

    source: Source
    ref: ImageRef

    @property
    def name(self) -> str:
        """Path of the photograph within its source."""
        return self.ref.uri

    def pixels(self) -> Tensor:
        """Return the pixels, uint8 [3, H, W]. Raises ImageFailure if they cannot be read."""
        return read_photograph(self.source.read(self.ref), MAX_PIXELS, 1)[0]


class TrainingData(NamedTuple):
    """Training images with fixations, images for distillation, and validation images by data set.

    `notes` holds a sentence for each reason for which images or fixations were excluded.
    """

    fixated: list[FixatedImage]
    distillation: list[FixatedImage | Photograph]
    validation: dict[str, list[FixatedImage]]
    notes: list[str]


def open_training_data(data: Sequence[str], distill: Sequence[str], validation: float, seed: int) -> TrainingData:
    """Open all data sets and hold out validation images.

    A data set with splits "train" and "val" is divided by them, any other at random. That division depends on the seed
    and the image names only, so two data sets of the same photographs (OSIE's eye and mouse tracking) hold out the same
    images. A photograph that is a validation image of one data set is not a training image of another.

    Args:
        data: data sets with fixations, each FORMAT:FOLDER.
        distill: sources of photographs without fixations; if there are any, the training images are used for
            distillation too.
        validation: share of images held out from data sets without splits.
        seed: random seed of that division.

    Raises UserError if a data set cannot be opened, or no training images remain.
    """
    fixated: list[FixatedImage] = []
    validation_images: dict[str, list[FixatedImage]] = {}
    notes: list[str] = []
    for location in data:
        images, excluded, first_excluded = open_fixations(location)
        notes += exclusion_notes(location, excluded, first_excluded)
        if {image.split for image in images} >= {"train", "val"}:
            train = [image for image in images if image.split == "train"]
            validation_images[location] = [image for image in images if image.split == "val"]
        else:
            train, validation_images[location] = split_images(images, validation, seed)
        fixated += train
    held_out = [image for images in validation_images.values() for image in images]
    if len(data) > 1:
        fixated = _exclude_copies(fixated, held_out)
    if not fixated:
        raise UserError(f"--data {' '.join(data)}: every training image is also a validation image of another data set")
    distillation = _list_distillation_images(distill, fixated, held_out) if distill else []
    return TrainingData(fixated, distillation, validation_images, notes)


def _exclude_copies(train: list[FixatedImage], held_out: list[FixatedImage]) -> list[FixatedImage]:
    """Exclude the training images that show a held-out photograph, including copies under other names."""
    held_out_paths = {image.path.resolve() for image in held_out}
    excluded = {
        id(image)
        for group in group_duplicates([*train, *held_out])
        if any(copy.path.resolve() in held_out_paths for copy in group)
        for image in group
    }
    return [image for image in train if id(image) not in excluded]


def _list_distillation_images(
    locations: Sequence[str], train: list[FixatedImage], held_out: list[FixatedImage]
) -> list[FixatedImage | Photograph]:
    """Return the training images and the photographs of all sources, each file once, without held-out images."""
    known_paths = {image.path.resolve() for image in held_out}
    images: list[FixatedImage | Photograph] = []
    for image in train:
        if image.path.resolve() not in known_paths:
            known_paths.add(image.path.resolve())
            images.append(image)
    for location in locations:
        source = open_source(location, "--distill")
        refs = [ImageRef(**row) for row in source.list().table.to_pylist()]
        if not refs:
            raise UserError(f"--distill {location}: expected images, found none")
        images += [Photograph(source, ref) for ref in refs if (Path(location) / ref.uri).resolve() not in known_paths]
    return images
