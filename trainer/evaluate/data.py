"""All images that an evaluation needs, opened before anything is measured, so that what is missing is told at once."""

from collections.abc import Mapping
from typing import NamedTuple

from common.errors import UserError
from common.fixations import FixatedImage, FixationData, exclusion_notes, open_fixations
from trainer.evaluate.alignment_scores import Scores, parse_comparisons, read_scores
from trainer.evaluate.cifar import open_cifar, open_cifar_c
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.corruptions import corrupt_images, open_imagenet_c
from trainer.evaluate.image_sets import FolderImages, ImageSet, open_training, subsample

Corrupted = Mapping[tuple[str, int], ImageSet]  # by corruption and severity


class Data(NamedTuple):
    """What the settings name; `human` and `compared` by data set and image.

    `left_out` counts by data set and reason what `human` lacks, and `human_notes` tell it.
    """

    train: ImageSet | None
    val: ImageSet | None
    corrupted: Corrupted
    cifar: ImageSet | None
    cifar_c: Corrupted
    human: dict[tuple[str, str], FixatedImage]
    compared: dict[str, Scores]
    left_out: dict[str, Mapping[str, int]]
    human_notes: list[str]


def open_data(settings: EvaluateSettings) -> Data:
    """Open what the suites need. Raises UserError for what is missing, or cannot be understood."""
    suites, severities = settings.suites(), sorted(set(settings.severities))
    classified = "linear" in suites or "imagenet-c" in suites
    retrieved = "retrieval" in suites
    val = FolderImages("--val", settings.val, "val") if settings.val and (classified or retrieved) else None
    people = _opened_human(settings.human_data) if "alignment" in suites else {}
    human = {(place, image.name): image for place, found in people.items() for image in found.images}
    return Data(
        open_training(settings.train) if settings.train and classified else None,
        val,
        _corrupted(settings, val, severities),
        open_cifar(settings.cifar) if settings.cifar and retrieved else None,
        open_cifar_c(settings.cifar_c, settings.corruptions, severities) if settings.cifar_c and retrieved else {},
        human,
        {name: read_scores(name, path, list(human)) for name, path in parse_comparisons(settings.compare).items()}
        if human
        else {},
        {place: found.left_out for place, found in people.items() if found.left_out},
        [note for place, found in people.items() for note in exclusion_notes(place, found.left_out, found.first)],
    )


def _corrupted(settings: EvaluateSettings, val: ImageSet | None, severities: list[int]) -> Corrupted:
    """ImageNet-C as published or, for the suite of its name, made from the clean images."""
    suites = settings.suites()
    if settings.imagenet_c and ("imagenet-c" in suites or "retrieval" in suites):
        found = open_imagenet_c(settings.imagenet_c, settings.corruptions, severities)
        return {key: subsample(pictures, settings.images, settings.seed) for key, pictures in found.items()}
    if "imagenet-c" in suites and val is not None:
        return corrupt_images(
            subsample(val, settings.images, settings.seed), settings.corruptions, severities, settings.seed
        )
    return {}


def _opened_human(locations: list[str]) -> dict[str, FixationData]:
    people = {location: open_fixations(location, "--human-data") for location in locations}
    for location, found in people.items():
        if not found.images:
            raise UserError(f"--human-data {location}: holds no image with fixations")
    return people
