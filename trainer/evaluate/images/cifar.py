"""CIFAR-10's test images, as published or in class folders, and CIFAR-10-C as published."""

import pickle
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from torch import Tensor

from common.errors import UserError, describe_error
from common.text import pluralize
from trainer.evaluate.images.corruptions import CORRUPTIONS, select_corruptions
from trainer.evaluate.images.image_sets import FolderImages, ImageSet, text_checksum, to_tensor

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FOLDER, TEST_BATCH = "cifar-10-batches-py", "test_batch"
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-python.tar")  # as published, and decompressed
SEVERITIES = 5
IMAGE_SHAPE = (32, 32, 3)
# modules and names that pickled arrays and numbers refer to; numpy 2 renamed the module `numpy.core` of numpy 1
ALLOWED_GLOBALS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),  # from protocol 5 on, the default of Python 3.14
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),  # bytes that Python 3 writes for Python 2
}


class ArrayImages:
    """Image set in an array of CIFAR images, uint8 [n, 32, 32, 3], in memory or mapped from a file."""

    whole_frame = True

    def __init__(self, name: str, pixels: np.ndarray, labels: np.ndarray, identity: str) -> None:
        self.name, self._pixels, self.identity = name, pixels, identity
        self.names = [f"{index:05}" for index in range(len(pixels))]
        self.labels, self.classes = labels.astype(np.int64), CLASSES

    def read(self, index: int) -> Tensor:
        """Return the pixels of an image, uint8 [3, 32, 32]."""
        return to_tensor(self._pixels[index])


def open_cifar(location: str) -> ImageSet:
    """Open CIFAR-10's test images: the published batches or their archive, class folders, or a tar file of these.

    Class folders below a folder `test` are used alone. Raises UserError if the location holds none of these.
    """
    path = Path(location)
    candidates = [path / TEST_BATCH, path / FOLDER / TEST_BATCH]
    if path.name in ARCHIVES:
        candidates.append(path)
    for candidate in candidates:
        if candidate.is_file():
            return _read_test_batch(candidate)
    return FolderImages("--cifar", location, "cifar10", whole_frame=True, subfolder="test")


def _read_test_batch(path: Path) -> ArrayImages:
    try:
        with _open_test_batch(path) as file:
            batch = _ArrayUnpickler(file, encoding="bytes").load()
        pixels = np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = np.asarray(batch[b"labels"])
    except Exception as error:  # pickle raises many types on damage
        raise UserError(f"--cifar {path}: cannot be read as CIFAR-10's test batch: {describe_error(error)}") from None
    _check_arrays(f"--cifar {path}", pixels, labels)
    return ArrayImages("cifar10", pixels, labels, _file_checksum(path))


@contextmanager
def _open_test_batch(path: Path) -> Iterator[IO[bytes]]:
    """Open a test batch, alone or in the published archive."""
    if path.name not in ARCHIVES:
        with path.open("rb") as file:
            yield file
        return
    with tarfile.open(path) as archive:
        member = archive.extractfile(f"{FOLDER}/{TEST_BATCH}")
        if member is None:
            raise ValueError(f"{FOLDER}/{TEST_BATCH} is not a file")
        yield member


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickler that creates numpy arrays and nothing else, since a pickle can run any program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"expected arrays of numbers, found {module}.{name}")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def open_cifar_c(
    folder: str, requested: Sequence[str], severities: Sequence[int]
) -> dict[tuple[str, int], ArrayImages]:
    """Open the sets of CIFAR-10-C by corruption and severity.

    Args:
        folder: CORRUPTION.npy, in which the images of the five severities follow each other, and labels.npy.
        requested: corruptions to open; empty for all that are available.
        severities: severities to open, 1 to 5.

    Raises UserError if a file is missing, or does not hold CIFAR images or labels.
    """
    root, where = Path(folder), f"--cifar-c {folder}"
    if root.is_file():
        raise UserError(f"{where}: expected a folder with CORRUPTION.npy and labels.npy, found a file; unpack it first")
    available = [name for name in CORRUPTIONS if (root / f"{name}.npy").is_file()]
    sets = {}
    for name in select_corruptions(requested, available, where):
        pixels, labels = _map_array(where, root / f"{name}.npy"), _map_array(where, root / "labels.npy")
        _check_arrays(f"{where}: {name}.npy", pixels, labels, SEVERITIES)
        count = len(pixels) // SEVERITIES
        for severity in severities:
            rows = slice((severity - 1) * count, severity * count)
            identity = text_checksum(_file_checksum(root / f"{name}.npy"), str(severity))
            sets[name, severity] = ArrayImages(f"cifar10-c {name} {severity}", pixels[rows], labels[rows], identity)
    return sets


def _check_arrays(where: str, pixels: np.ndarray, labels: np.ndarray, parts: int = 1) -> None:
    """Raise UserError unless the arrays hold CIFAR images with a label each, and divide into `parts` of equal size."""
    if pixels.dtype != np.uint8 or pixels.shape[1:] != IMAGE_SHAPE:
        raise UserError(f"{where}: expected uint8 images [n, 32, 32, 3], found {pixels.dtype} {list(pixels.shape)}")
    if labels.shape != (len(pixels),) or not len(pixels) or len(pixels) % parts:
        expected = "images" if parts == 1 else f"a multiple of {parts} images"
        found = f"{pluralize(len(pixels), 'image')} and labels {list(labels.shape)}"
        raise UserError(f"{where}: expected {expected} with a label each, found {found}")
    are_integers = np.issubdtype(labels.dtype, np.integer)
    wrong = labels[(labels < 0) | (labels >= len(CLASSES))] if are_integers else labels
    if len(wrong):
        raise UserError(f"{where}: expected integers from 0 to {len(CLASSES) - 1} as labels, found {wrong[0].item()!r}")


def _map_array(where: str, path: Path) -> np.ndarray:
    """Map a .npy file into memory, so that only the images that are used are read."""
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises many types on damage
        raise UserError(f"{where}: {path.name} cannot be read as an array: {describe_error(error)}") from None
    return array


def _file_checksum(path: Path) -> str:
    """Return a checksum of a file's path, size and time of modification, without reading its content."""
    status = path.stat()
    return text_checksum(str(path.resolve()), str(status.st_size), str(status.st_mtime_ns))
