"""The data of an evaluation. Each set is opened when a suite first asks for it, before anything is measured."""

from collections.abc import Mapping
from functools import cached_property

from common.errors import UserError
from common.fixations import FixatedImage, FixationData, exclusion_notes, open_fixations
from trainer.evaluate.alignment.scores import ScoresByImage, parse_comparisons, read_scores
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.images.cifar import open_cifar, open_cifar_c
from trainer.evaluate.images.corruptions import corrupt_images, open_imagenet_c
from trainer.evaluate.images.image_sets import FolderImages, ImageSet, open_training, subsample

CorruptedSets = Mapping[tuple[str, int], ImageSet]  # by corruption and severity


class EvaluationData:
    """The image sets and recordings that the settings name.

    Every property raises UserError if its location does not exist or does not hold such data.
    """

    def __init__(self, settings: EvaluateSettings) -> None:
        self._settings = settings
        self._severities = sorted(set(settings.severities))

    @cached_property
    def train(self) -> ImageSet | None:
        """Images that offline probes are trained on (--train)."""
        return open_training(self._settings.train) if self._settings.train else None

    @cached_property
    def val(self) -> ImageSet | None:
        """Clean images with classes (--val)."""
        return FolderImages("--val", self._settings.val, "val") if self._settings.val else None

    def require_val(self) -> ImageSet:
        """Return the images of --val for a suite whose inputs include it."""
        assert self.val is not None, "the settings were checked against the suite's inputs"
        return self.val

    @cached_property
    def corrupted(self) -> CorruptedSets:
        """ImageNet-C as published (--imagenet-c) or, if the suite imagenet-c was asked for, made from --val."""
        settings = self._settings
        if settings.imagenet_c:
            published = open_imagenet_c(settings.imagenet_c, settings.corruptions, self._severities)
            return {key: subsample(images, settings.images, settings.seed) for key, images in published.items()}
        if "imagenet-c" in settings.suites() and self.val is not None:
            clean = subsample(self.val, settings.images, settings.seed)
            return corrupt_images(clean, settings.corruptions, self._severities, settings.seed)
        return {}

    @cached_property
    def cifar(self) -> ImageSet | None:
        """CIFAR-10's test images (--cifar)."""
        return open_cifar(self._settings.cifar) if self._settings.cifar else None

    @cached_property
    def cifar_c(self) -> CorruptedSets:
        """CIFAR-10-C (--cifar-c)."""
        settings = self._settings
        return open_cifar_c(settings.cifar_c, settings.corruptions, self._severities) if settings.cifar_c else {}

    @cached_property
    def human(self) -> dict[tuple[str, str], FixatedImage]:
        """Photographs with fixations (--human-data), by data set and name."""
        return {(location, image.name): image for location, data in self._fixations.items() for image in data.images}

    @cached_property
    def compared(self) -> dict[str, ScoresByImage]:
        """Scores of other models (--compare), by name."""
        files = parse_comparisons(self._settings.compare)
        return {name: read_scores(name, path, list(self.human)) for name, path in files.items()}

    @property
    def excluded(self) -> dict[str, Mapping[str, int]]:
        """Counts of images and fixations that the readers of --human-data excluded, by data set and reason."""
        return {location: data.excluded for location, data in self._fixations.items() if data.excluded}

    @property
    def exclusion_notes(self) -> list[str]:
        """Sentences that report these counts."""
        return [
            note
            for location, data in self._fixations.items()
            for note in exclusion_notes(location, data.excluded, data.first_excluded)
        ]

    @cached_property
    def _fixations(self) -> dict[str, FixationData]:
        fixations = {location: open_fixations(location, "--human-data") for location in self._settings.human_data}
        for location, data in fixations.items():
            if not data.images:
                raise UserError(f"--human-data {location}: expected images with fixations, found none")
        return fixations
