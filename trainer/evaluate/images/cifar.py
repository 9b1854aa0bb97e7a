"""CIFAR-10's test images and CIFAR-10-C, as published or as class folders."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from common.errors import UserError, describe_error
from trainer.evaluate.images.corruptions import CORRUPTIONS, select_corruptions
from trainer.evaluate.images.image_sets import FolderImages, ImageSet, text_checksum, to_tensor

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCH = "test_batch"
SEVERITIES = 5
SHAPE = (32, 32, 3)
HARMLESS = {("_reconstruct", "numpy"), ("ndarray", "numpy"), ("dtype", "numpy"), ("scalar", "numpy")}


class ArrayImages:
    """Images in an array, uint8 [n, 32, 32, 3], in memory or mapped from a file."""

    framed = True

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, identity: str) -> None:
        self.name, self._images, self.identity = name, images, identity
        self.names = [f"{index:05}" for index in range(len(images))]
        self.labels, self.classes = labels.astype(np.int64), CLASSES

    def read(self, index: int) -> Tensor:
        return to_tensor(self._images[index])


def open_cifar(location: str) -> ImageSet:
    """CIFAR-10's test images: class folders (below `test`, if there is one), a tar of them, or the published batches.

    Raises UserError.
    """
    path = Path(location)
    for folder in (path, path / "cifar-10-batches-py"):
        if (folder / BATCH).is_file():
            return _published(folder / BATCH)
    return FolderImages("--cifar", location, "cifar10", framed=True, below="test")


def _published(path: Path) -> ArrayImages:
    try:
        with path.open("rb") as file:
            batch = _NumpyOnly(file, encoding="bytes").load()
        images = np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.asarray(batch[b"labels"])
    except Exception as error:  # pickles raise many kinds on damage
        raise UserError(f"--cifar {path}: cannot be read as CIFAR-10's test batch: {describe_error(error)}") from None
    _check(f"--cifar {path}", images, labels)
    return ArrayImages("cifar10", images, labels, _identity(path))


class _NumpyOnly(pickle.Unpickler):
    """Pickles can run any program; this one makes numpy's arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        if (name, module.partition(".")[0]) not in HARMLESS:
            raise pickle.UnpicklingError(f"expected arrays of numbers, found {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def open_cifar_c(folder: str, wanted: Sequence[str], severities: Sequence[int]) -> dict[tuple[str, int], ArrayImages]:
    """CIFAR-10-C as published: CORRUPTION.npy, its five severities one after the other, and labels.npy.

    Raises UserError where a file is missing, or is no such array.
    """
    root, where = Path(folder), f"--cifar-c {folder}"
    available = [name for name in CORRUPTIONS if (root / f"{name}.npy").is_file()]
    sets = {}
    for name in select_corruptions(wanted, available, where):
        images, labels = _array(where, root / f"{name}.npy"), _array(where, root / "labels.npy")
        _check(f"{where}: {name}.npy", images, labels, SEVERITIES)
        each = len(images) // SEVERITIES
        for severity in severities:
            rows = slice((severity - 1) * each, severity * each)
            identity = text_checksum(_identity(root / f"{name}.npy"), str(severity))
            sets[name, severity] = ArrayImages(f"cifar10-c {name} {severity}", images[rows], labels[rows], identity)
    return sets


def _check(where: str, images: np.ndarray, labels: np.ndarray, times: int = 1) -> None:
    """Raises UserError for what are no CIFAR images with a label each, `times` as many as there are photographs."""
    if images.dtype != np.uint8 or images.shape[1:] != SHAPE:
        raise UserError(f"{where}: expected uint8 images [n, 32, 32, 3], found {images.dtype} {list(images.shape)}")
    if labels.shape != (len(images),) or not len(images) or len(images) % times:
        wanted = "images" if times == 1 else f"a multiple of {times} images"
        found = f"{len(images):,} images and labels {list(labels.shape)}"
        raise UserError(f"{where}: expected {wanted} with a label each, found {found}")
    whole = np.issubdtype(labels.dtype, np.integer)
    wrong = labels[(labels < 0) | (labels >= len(CLASSES))] if whole else labels
    if len(wrong):
        raise UserError(
            f"{where}: expected whole numbers from 0 to {len(CLASSES) - 1} as labels, found {wrong[0].item()!r}"
        )


def _array(where: str, path: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises many kinds on damage
        raise UserError(f"{where}: {path.name} cannot be read as an array: {describe_error(error)}") from None
    return array


def _identity(path: Path) -> str:
    status = path.stat()
    return text_checksum(str(path.resolve()), str(status.st_size), str(status.st_mtime_ns))
