"""Features of a set of images: extracted once, kept by the checksums of model and data."""

import io
import itertools
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import ImageFailure, UserError, describe_error
from common.progress import progress_bar
from common.storage import open_storage
from common.text import join_names
from trainer.evaluate.images.image_sets import ImageSet, model_input, text_checksum
from trainer.evaluate.models import EvaluatedModel, file_name

T = TypeVar("T")

VERSION = "1"  # of how features are made: another one makes them anew
MOST_READERS = 16
MEMORY = 16 * 2**30  # bytes of features that models of a set may gather together


class FeatureSet(NamedTuple):
    """Of the images that could be read: `rows` [n, C] float32, `labels` [n], and `indices` [n] into the set's names.

    `unreadable`: why each of the others could not, by name.
    """

    rows: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    unreadable: dict[str, str]


class Piece(NamedTuple):
    """What a batch becomes: each model's features [b, C], the images' indices [b], the reasons of those that failed."""

    rows: list[np.ndarray]
    indices: np.ndarray
    failed: dict[int, str]


# models of one image size, sets, that size -> pieces with their set's number, in order
Extract = Callable[[Sequence[EvaluatedModel], Sequence[ImageSet], int], Iterator[tuple[int, Piece]]]


class FeatureStore:
    """Features by model and set, from the folder where they were kept, or extracted now.

    `unreadable` gathers, by set and name, why images could not be read.
    """

    def __init__(self, folder: str, extract: Extract, image_size: int | None) -> None:
        self._storage, self._extract, self._size = open_storage(folder), extract, image_size
        self.unreadable: dict[str, dict[str, str]] = {}

    def size(self, model: EvaluatedModel) -> int:
        """The side at which a model sees images."""
        return self._size or model.image_size

    def prepare(self, models: Iterable[EvaluatedModel], sets: Iterable[ImageSet]) -> None:
        """Extract what is not kept yet; models that lack the same see each image together, read or corrupted once.

        Raises UserError where none of a set's images can be read, or a model's features of them are no numbers.
        """
        unique = list({(each.name, each.identity): each for each in sets}.values())
        groups: dict[tuple[int, tuple[int, ...]], list[EvaluatedModel]] = {}
        for model in models:
            kept = [self._storage.exists(self._name(model, each)[0]) for each in unique]
            if not all(kept):
                missing = tuple(number for number, there in enumerate(kept) if not there)
                groups.setdefault((self.size(model), missing), []).append(model)
        for (size, missing), together in groups.items():
            queue = [unique[number] for number in missing]
            room = MEMORY // (4 * max(model.channels for model in together) * max(len(each.names) for each in queue))
            for first in range(0, len(together), max(room, 1)):
                self._fill(together[first : first + max(room, 1)], queue, size)

    def _fill(self, models: Sequence[EvaluatedModel], queue: Sequence[ImageSet], size: int) -> None:
        """Extract all sets of a queue with all models."""
        who = models[0].name if len(models) == 1 else f"{len(models)} models"
        with progress_bar(total=sum(len(each.names) for each in queue), desc=who, unit=" images") as bar:
            pieces = self._extract(models, queue, size)
            for number, group in itertools.groupby(pieces, key=lambda found: found[0]):
                bar.set_postfix_str(queue[number].name)
                found = [piece for _, piece in _counted(group, bar)]
                for place, model in enumerate(models):
                    name, key = self._name(model, queue[number])
                    joined = _joined(model, queue[number], found, place)
                    self._storage.replace(name, _packed(joined, queue[number], key))

    def get(self, model: EvaluatedModel, pictures: ImageSet) -> FeatureSet:
        """A set's features. Raises UserError like `prepare`."""
        self.prepare([model], [pictures])
        name, key = self._name(model, pictures)
        try:
            found = _unpacked(self._storage.read(name), key)
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{self._storage.location}/{name}: not the features that were kept ({describe_error(error)}); remove it"
            ) from None
        _check_finite(model, pictures, found.rows)  # of what earlier versions kept, too
        if found.unreadable:
            self.unreadable[pictures.name] = found.unreadable
        return found

    def _name(self, model: EvaluatedModel, pictures: ImageSet) -> tuple[str, str]:
        """The file of a set's features, and the checksum of all that decides them."""
        key = text_checksum(VERSION, model.sha256, pictures.identity, str(self.size(model)), str(pictures.framed))
        return f"{file_name(f'{model.name} {pictures.name}')}-{key[:16]}.npz", key


def _counted(group: Iterator[tuple[int, Piece]], bar: Any) -> Iterator[tuple[int, Piece]]:
    for number, piece in group:
        bar.update(len(piece.indices) + len(piece.failed))
        yield number, piece


def _joined(model: EvaluatedModel, pictures: ImageSet, pieces: list[Piece], place: int) -> FeatureSet:
    """The features of the model, which is at a place of the pieces' rows."""
    failed = {index: reason for piece in pieces for index, reason in piece.failed.items()}
    unreadable = {pictures.names[index]: failed[index] for index in sorted(failed)}
    rows = [piece.rows[place] for piece in pieces if len(piece.indices)]
    if not rows:
        reasons = [f"{name} ({reason})" for name, reason in unreadable.items()]
        raise UserError(f"{pictures.name}: none of the {len(reasons):,} images can be read: {join_names(reasons, 2)}")
    indices = np.concatenate([piece.indices for piece in pieces])
    found = np.concatenate(rows)
    _check_finite(model, pictures, found)
    return FeatureSet(found, pictures.labels[indices], indices, unreadable)


def _check_finite(model: EvaluatedModel, pictures: ImageSet, rows: np.ndarray) -> None:
    wrong = int((~np.isfinite(rows).all(1)).sum())
    if wrong:
        raise UserError(
            f"{model.location}: expected numbers as features of {pictures.name}, found NaN or infinity for "
            f"{wrong:,} of {len(rows):,} images; its weights have diverged or are damaged: leave it out"
        )


def _unpacked(content: bytes, key: str) -> FeatureSet:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        if str(file["key"]) != key:
            raise ValueError("of another model or data set")
        unreadable = dict(zip(file["unreadable"].tolist(), file["reasons"].tolist(), strict=True))
        return FeatureSet(file["features"], file["labels"], file["indices"], unreadable)


def _packed(found: FeatureSet, pictures: ImageSet, key: str) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        "features": found.rows,
        "labels": found.labels,
        "indices": found.indices,
        "names": np.array([pictures.names[index] for index in found.indices], str),
        "classes": np.array(pictures.classes, str),
        "unreadable": np.array(list(found.unreadable), str),
        "reasons": np.array(list(found.unreadable.values()), str),
        "key": np.array(key),
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


class _Shown(Dataset[tuple[int, Tensor | ImageFailure | UserError]]):
    """Images as networks see them, or why not: what a reading process raises would reach us as a traceback."""

    def __init__(self, pictures: ImageSet, size: int) -> None:
        self._pictures, self._size = pictures, size

    def __len__(self) -> int:
        return len(self._pictures.names)

    def __getitem__(self, index: int) -> tuple[int, Tensor | ImageFailure | UserError]:
        try:
            return index, model_input(self._pictures, index, self._size)
        except (ImageFailure, UserError) as error:
            return index, error


def extract_here(
    networks: Sequence[Any], pictures: ImageSet, size: int, device: torch.device, batch_size: int, readers: int | None
) -> Iterator[Piece]:
    """Extract in this process; `readers` others read, crop and corrupt, none of them for a batch or less.

    Raises UserError where the images' store fails, or a reading process dies.
    """
    readers = min(os.cpu_count() or 1, MOST_READERS) if readers is None else readers
    networks, looked = [network.to(device) for network in networks], _Shown(pictures, size)
    looked[0]  # what is compiled or imported at first use, readers need not: they are forked from here
    loader = DataLoader(
        looked,
        batch_size,
        num_workers=0 if len(pictures.names) <= batch_size else readers,
        collate_fn=list,
    )
    for batch in _alive(loader):
        if trouble := next((found for _, found in batch if isinstance(found, UserError)), None):
            raise trouble
        good = [(index, image) for index, image in batch if isinstance(image, Tensor)]
        failed = {index: str(why) for index, why in batch if isinstance(why, ImageFailure)}
        rows = _features(networks, [image for _, image in good], device) if good else []
        yield Piece(rows, np.array([index for index, _ in good], np.int64), failed)


def _alive(loader: Iterable[T]) -> Iterator[T]:
    """What a loader gives. Raises UserError where one of its processes dies."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads images died: {describe_error(error)}; out of memory? ask for fewer --readers"
        ) from None


@torch.inference_mode()
def _features(networks: Sequence[Any], images: list[Tensor], device: torch.device) -> list[np.ndarray]:
    pixels = torch.stack(images).to(device, non_blocking=True).float() / 255
    return [network.features(pixels).float().cpu().numpy() for network in networks]
