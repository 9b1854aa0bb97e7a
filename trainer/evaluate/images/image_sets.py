"""Images with classes, wherever they lie: class folders and tars, labelled data sets, a part of either."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.errors import ImageFailure, Reason, UserError, describe_error
from common.images import read_photograph
from common.manifest import MANIFEST, PLAN
from common.sources import open_source
from common.sources.listing import ImageRef, class_folder
from common.sources.tars import tar_headers
from common.storage import open_storage
from common.text import join_names
from trainer.data.crops import center_crop, resize_frame
from trainer.data.dataset import Dataset, open_dataset

MAX_PIXELS = 200_000_000
SCANNERS = 8  # threads that list shards


class ImageSet(Protocol):
    """A set of images. `labels` are indices into `classes`; `identity` changes with anything that changes the pixels.

    `framed`: they are shown whole, because they are small or were cropped already; else their centre is shown.
    """

    name: str
    names: list[str]
    labels: np.ndarray
    classes: list[str]
    framed: bool
    identity: str

    def read(self, index: int) -> Tensor:
        """An image's pixels, uint8 [3, H, W]. Raises ImageFailure."""
        ...


def model_input(pictures: ImageSet, index: int, size: int) -> Tensor:
    """An image as networks see it, uint8 [3, size, size]. Raises ImageFailure."""
    return (resize_frame if pictures.framed else center_crop)(pictures.read(index), size)


class FolderImages:
    """Class folders, or a tar of them, local or in S3; only those `below` a folder where there is one of that name."""

    def __init__(self, flag: str, location: str, name: str, framed: bool = False, below: str | None = None) -> None:
        self._source = open_source(location, flag)
        table = self._source.list().table
        refs = [ImageRef(*row.values()) for row in table.to_pylist()]
        self._refs = [ref for ref in refs if below and ref.uri.startswith(f"{below}/")] or refs
        folders = [class_folder(ref.uri) for ref in self._refs]
        if not folders or None in folders:
            found = f"{self._refs[folders.index(None)].uri} at the top" if folders else "no images"
            raise UserError(f"{flag} {location}: expected class folders with images, found {found}")
        _check_together(f"{flag} {location}", [PurePosixPath(ref.uri).parent for ref in self._refs])
        self.name, self.framed = name, framed
        self.names = [ref.uri for ref in self._refs]
        self.classes = sorted({str(folder) for folder in folders})
        index = {folder: number for number, folder in enumerate(self.classes)}
        self.labels = np.array([index[str(folder)] for folder in folders], np.int64)
        place = location if "://" in location else str(Path(location).resolve())
        self.identity = text_checksum(place, *(f"{ref.uri} {ref.size}" for ref in self._refs))

    def read(self, index: int) -> Tensor:
        return read_photograph(self._source.read(self._refs[index]), MAX_PIXELS, 1)[0]


def _check_together(where: str, folders: Iterable[PurePosixPath]) -> None:
    """Raises UserError where a class lies under two folders, as under train/ and val/ of a data set's root."""
    above: dict[str, PurePosixPath] = {}
    for folder in dict.fromkeys(folders):
        first = above.setdefault(folder.name, folder.parent)
        if first != folder.parent:
            raise UserError(
                f"{where}: expected each class in one place, found {folder.name} under {first}/ and {folder.parent}/; "
                "name one of them"
            )


class _Place(NamedTuple):
    """Where the JPEG of a sample lies, and its class."""

    shard: str
    key: str
    offset: int
    size: int
    label: int


class ShardImages:
    """The images of a labelled data set, as the labelling job writes it."""

    def __init__(self, flag: str, data: Dataset, name: str) -> None:
        if data.classes is None:
            raise UserError(f"{flag} {data.location}: its samples have no classes; expected a data set with classes")
        self._storage = open_storage(data.location)
        with ThreadPoolExecutor(SCANNERS) as pool:
            self._places = [place for found in pool.map(self._places_in, data.shards) for place in found]
        self.name, self.framed = name, False
        self.names = [f"{place.shard}/{place.key}" for place in self._places]
        self.labels = np.array([place.label for place in self._places], np.int64)
        self.classes = data.class_names()
        self.identity = text_checksum(data.checksum)

    def read(self, index: int) -> Tensor:
        place = self._places[index]
        try:
            content = self._storage.read_range(place.shard, place.offset, place.size)
        except OSError as error:
            raise ImageFailure(Reason.UNREADABLE, describe_error(error)) from None
        return read_photograph(content, MAX_PIXELS, 1)[0]

    def _places_in(self, shard: str) -> list[_Place]:
        """The images and classes of a shard."""
        try:
            with self._storage.open(shard) as file:
                return list(_samples(shard, file))
        except Exception as error:  # tarfile and storage raise many kinds on damage
            raise UserError(
                f"{self._storage.location}/{shard}: cannot be read as a shard: {describe_error(error)}"
            ) from None


def _samples(shard: str, file: BinaryIO) -> list[_Place]:
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    for header in tar_headers(file):
        key, _, extension = header.name.partition(".")
        if extension == "jpg":
            images[key] = (header.offset_data, header.size)
        elif extension == "cls":
            file.seek(header.offset_data)
            labels[key] = int(file.read(header.size))
    return [_Place(shard, key, offset, size, labels[key]) for key, (offset, size) in images.items()]


class ImageSubset:
    """Some images of a set, in their order there."""

    def __init__(self, pictures: ImageSet, indices: np.ndarray) -> None:
        self._pictures, self._indices = pictures, indices
        self.name, self.classes, self.framed = pictures.name, pictures.classes, pictures.framed
        self.names = [pictures.names[index] for index in indices]
        self.labels = pictures.labels[indices]
        self.identity = text_checksum(pictures.identity, ",".join(map(str, indices)))

    def read(self, index: int) -> Tensor:
        return self._pictures.read(int(self._indices[index]))


def subsample(pictures: ImageSet, images: int | None, seed: int) -> ImageSet:
    """So many images, drawn by the seed; all where there are no more."""
    if images is None or images >= len(pictures.names):
        return pictures
    generator = np.random.default_rng([seed, 0])
    return ImageSubset(pictures, np.sort(generator.choice(len(pictures.names), images, replace=False)))


def open_training(location: str) -> ImageSet:
    """What an offline probe learns from: a labelled data set, or class folders. Raises UserError."""
    storage = open_storage(location)
    if storage.exists(MANIFEST) or storage.exists(PLAN):
        return ShardImages("--train", open_dataset(location), "train")
    return FolderImages("--train", location, "train")


def check_classes(found: Sequence[str], expected: Sequence[str], what: str, source: str) -> None:
    """Raises UserError where two sets of class names differ: which are missing, and which are not known."""
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    differences = [
        f"{len(names):,} {kind} ({join_names(names)})"
        for kind, names in (("are missing", missing), ("are not known", unknown))
        if names
    ]
    if differences:
        raise UserError(
            f"{what}: expected the {len(expected):,} classes of {source}, found {len(found):,}, of which "
            f"{' and '.join(differences)}; name a folder with exactly these class folders"
        )


def text_checksum(*parts: str) -> str:
    """One checksum of several texts."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def to_tensor(array: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> [3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def through_jpeg(array: np.ndarray, quality: int) -> Tensor:
    """uint8 [H, W, 3], saved as JPEG and read again: [3, H, W]."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return read_photograph(buffer.getvalue(), MAX_PIXELS, 1)[0]
