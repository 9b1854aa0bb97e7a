"""Sets of images with class labels: class folders, tar files of them, labeled data sets, and subsets of these."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
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

MAX_PIXELS = 200_000_000  # of an image
LISTING_THREADS = 8  # each reads the tar headers of one shard


class ImageSet(Protocol):
    """A set of images with class labels.

    Attributes:
        name: name of the set in reports and file names.
        names: names of the images, unique within the set.
        labels: indices into `classes`, int64 [n].
        classes: names of the classes.
        whole_frame: whether models see the whole frame, because the images are small or already cropped; otherwise
            they see a center crop.
        identity: checksum that changes with anything that changes the pixels.
    """

    name: str
    names: list[str]
    labels: np.ndarray
    classes: list[str]
    whole_frame: bool
    identity: str

    def read(self, index: int) -> Tensor:
        """Return the pixels of an image, uint8 [3, H, W]. Raises ImageFailure."""
        ...


def read_model_input(images: ImageSet, index: int, size: int) -> Tensor:
    """Return an image as models see it, uint8 [3, size, size]. Raises ImageFailure."""
    pixels = images.read(index)
    return resize_frame(pixels, size) if images.whole_frame else center_crop(pixels, size)


class FolderImages:
    """Image set in class folders, or in a tar file of them, local or in S3.

    Args:
        flag: the flag that named the location, for error messages.
        location: folder or tar file.
        name: name of the set.
        whole_frame: see `ImageSet`.
        subfolder: use only images below this folder, if it exists.

    Raises UserError if the location does not hold class folders with images.
    """

    def __init__(
        self, flag: str, location: str, name: str, whole_frame: bool = False, subfolder: str | None = None
    ) -> None:
        self._source = open_source(location, flag)
        table = self._source.list().table
        refs = [ImageRef(*row.values()) for row in table.to_pylist()]
        self._refs = [ref for ref in refs if subfolder and ref.uri.startswith(f"{subfolder}/")] or refs
        folders = [class_folder(ref.uri) for ref in self._refs]
        if not folders or None in folders:
            found = f"{self._refs[folders.index(None)].uri} at the top" if folders else "no images"
            raise UserError(f"{flag} {location}: expected class folders with images, found {found}")
        _check_one_folder_per_class(f"{flag} {location}", [PurePosixPath(ref.uri).parent for ref in self._refs])
        self.name, self.whole_frame = name, whole_frame
        self.names = [ref.uri for ref in self._refs]
        self.classes = sorted({str(folder) for folder in folders})
        class_indices = {folder: index for index, folder in enumerate(self.classes)}
        self.labels = np.array([class_indices[str(folder)] for folder in folders], np.int64)
        absolute = location if "://" in location else str(Path(location).resolve())
        self.identity = text_checksum(absolute, *(f"{ref.uri} {ref.size}" for ref in self._refs))

    def read(self, index: int) -> Tensor:
        """Return the pixels of an image, uint8 [3, H, W]. Raises ImageFailure."""
        return read_photograph(self._source.read(self._refs[index]), MAX_PIXELS, 1)[0]


def _check_one_folder_per_class(where: str, folders: Iterable[PurePosixPath]) -> None:
    """Raise UserError if two folders hold the same class, such as train/cat and val/cat."""
    parents: dict[str, PurePosixPath] = {}
    for folder in dict.fromkeys(folders):
        first = parents.setdefault(folder.name, folder.parent)
        if first != folder.parent:
            raise UserError(
                f"{where}: expected one folder per class, found {folder.name} under {first}/ and {folder.parent}/; "
                "name one of them"
            )


class _ShardImage(NamedTuple):
    """A sample's JPEG, as a range of bytes in a shard, and its class index."""

    shard: str
    key: str
    offset: int
    size: int
    label: int


class ShardImages:
    """Image set of a labeled data set. Raises UserError if its samples have no classes or a shard is damaged.

    Args:
        flag: the flag that named the data set, for error messages.
        data: the data set.
        name: name of the set.
    """

    def __init__(self, flag: str, data: Dataset, name: str) -> None:
        if data.classes is None:
            raise UserError(f"{flag} {data.location}: its samples have no classes; expected a data set with classes")
        self._storage = open_storage(data.location)
        with ThreadPoolExecutor(LISTING_THREADS) as pool:
            self._images = [image for images in pool.map(self._list_shard, data.shards) for image in images]
        self.name, self.whole_frame = name, False
        self.names = [f"{image.shard}/{image.key}" for image in self._images]
        self.labels = np.array([image.label for image in self._images], np.int64)
        self.classes = data.class_names()
        self.identity = text_checksum(data.checksum)

    def read(self, index: int) -> Tensor:
        """Return the pixels of an image, uint8 [3, H, W]. Raises ImageFailure."""
        image = self._images[index]
        try:
            content = self._storage.read_range(image.shard, image.offset, image.size)
        except OSError as error:
            raise ImageFailure(Reason.UNREADABLE, describe_error(error)) from None
        return read_photograph(content, MAX_PIXELS, 1)[0]

    def _list_shard(self, shard: str) -> list[_ShardImage]:
        try:
            with self._storage.open(shard) as file:
                return _read_headers(shard, file)
        except Exception as error:  # tarfile and storage raise many types on damage
            raise UserError(
                f"{self._storage.location}/{shard}: cannot be read as a shard: {describe_error(error)}"
            ) from None


def _read_headers(shard: str, file: BinaryIO) -> list[_ShardImage]:
    """List the images of a shard without reading their JPEGs."""
    jpegs: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    for header in tar_headers(file):
        key, _, extension = header.name.partition(".")
        if extension == "jpg":
            jpegs[key] = (header.offset_data, header.size)
        elif extension == "cls":
            file.seek(header.offset_data)
            labels[key] = int(file.read(header.size))
    return [_ShardImage(shard, key, offset, size, labels[key]) for key, (offset, size) in jpegs.items()]


class ImageSubset:
    """The images of a set at the given indices."""

    def __init__(self, images: ImageSet, indices: np.ndarray) -> None:
        self._images, self._indices = images, indices
        self.name, self.classes, self.whole_frame = images.name, images.classes, images.whole_frame
        self.names = [images.names[index] for index in indices]
        self.labels = images.labels[indices]
        self.identity = text_checksum(images.identity, ",".join(map(str, indices)))

    def read(self, index: int) -> Tensor:
        """Return the pixels of an image, uint8 [3, H, W]. Raises ImageFailure."""
        return self._images.read(int(self._indices[index]))


def subsample(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """Draw `count` images of a set at random; return the set itself if `count` is None or not below its size."""
    if count is None or count >= len(images.names):
        return images
    generator = np.random.default_rng([seed, 0])
    return ImageSubset(images, np.sort(generator.choice(len(images.names), count, replace=False)))


def open_training(location: str) -> ImageSet:
    """Open the images that offline probes are trained on: a labeled data set or class folders. Raises UserError."""
    if is_labeled(location):
        return ShardImages("--train", open_dataset(location), "train")
    return FolderImages("--train", location, "train")


def is_labeled(location: str) -> bool:
    """Return whether a location holds a labeled data set, perhaps an unfinished one."""
    storage = open_storage(location)
    return storage.exists(MANIFEST) or storage.exists(PLAN)


def check_classes(found: Sequence[str], expected: Sequence[str], what: str, source: str) -> None:
    """Raise UserError if two collections of class names differ.

    Args:
        found: class names of the images.
        expected: class names that they must have, in any order.
        what: the images, for the message, such as "--val".
        source: where the expected classes come from, for the message.
    """
    missing, unknown = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    differences = [
        f"{len(names):,} {kind} ({join_names(names)})"
        for kind, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    if differences:
        raise UserError(
            f"{what}: expected the {len(expected):,} classes of {source}, found {len(found):,} with "
            f"{' and '.join(differences)}; name a folder with exactly these class folders"
        )


def text_checksum(*parts: str) -> str:
    """Return the SHA-256 checksum of texts, in hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def to_tensor(array: np.ndarray) -> Tensor:
    """Convert an image from uint8 [H, W, 3] to a tensor [3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def compress_jpeg(array: np.ndarray, quality: int) -> Tensor:
    """Encode an image, uint8 [H, W, 3], as JPEG and return the decoded pixels, [3, H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    return read_photograph(buffer.getvalue(), MAX_PIXELS, 1)[0]
