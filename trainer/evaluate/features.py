"""Features of image sets: extracted once per model and set, then saved and reused by later evaluations."""

import contextlib
import io
import itertools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile

from common.errors import UserError, describe_error
from common.progress import progress_bar
from common.storage import open_storage
from common.text import join_names, pluralize
from trainer.evaluate.extraction import FeatureBatch
from trainer.evaluate.images.image_sets import ImageSet, text_checksum
from trainer.evaluate.models import EvaluatedModel, to_file_name

VERSION = "1"  # part of the checksum of saved features; a new one makes all features be extracted again
MAX_FEATURE_BYTES = 16 * 2**30  # memory for the features of the models that are extracted together


class FeatureSet(NamedTuple):
    """A model's features of the n readable images of a set.

    Attributes:
        vectors: features, float32 [n, channels].
        labels: class indices, int64 [n].
        indices: indices of the images in the set, int64 [n].
        unreadable: reasons why the other images cannot be read, by name.
    """

    vectors: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    unreadable: dict[str, str]


# Takes models of one image size, image sets, and that size; yields each set's number with a batch of it, in order.
Extractor = Callable[[Sequence[EvaluatedModel], Sequence[ImageSet], int], Iterator[tuple[int, FeatureBatch]]]


class FeatureStore:
    """Features by model and image set, saved in a folder and extracted only if they are not there yet.

    Args:
        folder: folder of saved features, local or in S3.
        extract: function that extracts features.
        image_size: side of the images that models see; None for that of each model's training.

    `unreadable` collects the reasons why images cannot be read, by set and name.
    """

    def __init__(self, folder: str, extract: Extractor, image_size: int | None) -> None:
        self._storage, self._extract, self._image_size = open_storage(folder), extract, image_size
        self.unreadable: dict[str, dict[str, str]] = {}

    def image_size(self, model: EvaluatedModel) -> int:
        """Return the side of the images that a model sees, in pixels."""
        return self._image_size or model.image_size

    def prepare(self, models: Iterable[EvaluatedModel], sets: Iterable[ImageSet]) -> None:
        """Extract and save all features that are not saved yet.

        Models of one image size that lack the same sets are extracted together, so that each image is read (and
        corrupted) only once. Raises UserError if no image of a set can be read, or if features are not finite.
        """
        unique = list({(images.name, images.identity): images for images in sets}.values())
        groups: dict[tuple[int, tuple[int, ...]], list[EvaluatedModel]] = {}
        for model in models:
            is_saved = [self._storage.exists(self._file_and_key(model, images)[0]) for images in unique]
            if not all(is_saved):
                missing = tuple(number for number, saved in enumerate(is_saved) if not saved)
                groups.setdefault((self.image_size(model), missing), []).append(model)
        for (size, missing), group in groups.items():
            missing_sets = [unique[number] for number in missing]
            largest_set = max(len(images.names) for images in missing_sets)
            bytes_per_model = 4 * max(model.channels for model in group) * largest_set
            models_at_once = max(MAX_FEATURE_BYTES // bytes_per_model, 1)
            for first in range(0, len(group), models_at_once):
                self._extract_and_save(group[first : first + models_at_once], missing_sets, size)

    def _extract_and_save(self, models: Sequence[EvaluatedModel], sets: Sequence[ImageSet], size: int) -> None:
        description = models[0].name if len(models) == 1 else f"{len(models)} models"
        total = sum(len(images.names) for images in sets)
        with progress_bar(total=total, desc=f"features of {description}", unit=" images") as bar:
            numbered_batches = self._extract(models, sets, size)
            for number, group in itertools.groupby(numbered_batches, key=lambda numbered: numbered[0]):
                images = sets[number]
                bar.set_postfix_str(images.name)
                batches = []
                for _, batch in group:
                    bar.update(len(batch.indices) + len(batch.failures))
                    batches.append(batch)
                for position, model in enumerate(models):
                    file_name, key = self._file_and_key(model, images)
                    features = _concat_batches(model, images, batches, position)
                    self._storage.replace(file_name, _serialize(features, images, key))

    def get(self, model: EvaluatedModel, images: ImageSet) -> FeatureSet:
        """Return a model's features of a set, extracting them if needed. Raises UserError as `prepare` does."""
        self.prepare([model], [images])
        file_name, key = self._file_and_key(model, images)
        with self._explained_errors(file_name):
            features = _deserialize(self._storage.read(file_name), key)
        _check_finite(model, images, features.vectors)  # earlier versions saved features without this check
        if features.unreadable:
            self.unreadable[images.name] = features.unreadable
        return features

    def readable(self, model: EvaluatedModel, images: ImageSet) -> np.ndarray:
        """Return the indices of the images of a set that can be read, without loading the saved features.

        Raises UserError as `prepare` does.
        """
        self.prepare([model], [images])
        file_name, key = self._file_and_key(model, images)
        with (
            self._explained_errors(file_name),
            self._storage.open(file_name) as file,
            _open_arrays(file, key) as arrays,
        ):
            indices: np.ndarray = arrays["indices"]
            return indices

    @contextlib.contextmanager
    def _explained_errors(self, file_name: str) -> Iterator[None]:
        """Raise UserError if a file of features cannot be read."""
        try:
            yield
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self._storage.location}/{file_name}: expected the features that an evaluation saved, found another "
                f"file ({describe_error(error)}); remove it"
            ) from None

    def _file_and_key(self, model: EvaluatedModel, images: ImageSet) -> tuple[str, str]:
        """Return the name of the file of features, and a checksum of everything that determines its content."""
        key = text_checksum(
            VERSION, model.sha256, images.identity, str(self.image_size(model)), str(images.whole_frame)
        )
        return f"{to_file_name(f'{model.name} {images.name}')}-{key[:16]}.npz", key


def _concat_batches(
    model: EvaluatedModel, images: ImageSet, batches: Sequence[FeatureBatch], position: int
) -> FeatureSet:
    """Concatenate the features of the model at `position` in each batch. Raises UserError as `prepare` does."""
    failures = {index: reason for batch in batches for index, reason in batch.failures.items()}
    unreadable = {images.names[index]: failures[index] for index in sorted(failures)}
    parts = [batch.vectors[position] for batch in batches if len(batch.indices)]
    if not parts:
        reasons = [f"{name} ({reason})" for name, reason in unreadable.items()]
        raise UserError(
            f"{images.name}: expected at least one readable image, found {len(reasons):,} unreadable: "
            f"{join_names(reasons, 2)}"
        )
    indices = np.concatenate([batch.indices for batch in batches])
    vectors = np.concatenate(parts)
    _check_finite(model, images, vectors)
    return FeatureSet(vectors, images.labels[indices], indices, unreadable)


def _check_finite(model: EvaluatedModel, images: ImageSet, vectors: np.ndarray) -> None:
    wrong = int((~np.isfinite(vectors).all(1)).sum())
    if wrong:
        raise UserError(
            f"{model.location}: expected finite numbers as features of {images.name}, found NaN or infinity for "
            f"{wrong:,} of {pluralize(len(vectors), 'image')}; its weights have diverged or are damaged: evaluate "
            "without it"
        )


def _open_arrays(file: BinaryIO, key: str) -> NpzFile:
    arrays: NpzFile = np.load(file, allow_pickle=False)
    if str(arrays["key"]) != key:
        raise ValueError("features of another model or image set")
    return arrays


def _deserialize(content: bytes, key: str) -> FeatureSet:
    with _open_arrays(io.BytesIO(content), key) as arrays:
        unreadable = dict(zip(arrays["unreadable"].tolist(), arrays["reasons"].tolist(), strict=True))
        return FeatureSet(arrays["features"], arrays["labels"], arrays["indices"], unreadable)


def _serialize(features: FeatureSet, images: ImageSet, key: str) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        "features": features.vectors,
        "labels": features.labels,
        "indices": features.indices,
        "names": np.array([images.names[index] for index in features.indices], str),
        "classes": np.array(images.classes, str),
        "unreadable": np.array(list(features.unreadable), str),
        "reasons": np.array(list(features.unreadable.values()), str),
        "key": np.array(key),
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()
