"""Extraction of features: images are read by processes and passed through networks, batch by batch."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import ImageFailure, UserError, describe_error
from common.parallel import available_cores
from trainer.evaluate.images.image_sets import ImageSet, read_model_input

T = TypeVar("T")

MAX_DEFAULT_READERS = 16


class FeatureBatch(NamedTuple):
    """Features of a batch of images by several models.

    Attributes:
        vectors: features by model, float32 [b, channels] each; empty if no image can be read.
        indices: indices of the b readable images in the set, int64 [b].
        failures: reasons why the other images cannot be read, by index in the set.
    """

    vectors: list[np.ndarray]
    indices: np.ndarray
    failures: dict[int, str]


class _ModelInputs(Dataset[tuple[int, Tensor | ImageFailure | UserError]]):
    """Model inputs with their indices; images that cannot be read give the error.

    Errors are returned rather than raised, as a DataLoader turns what its processes raise into a traceback.
    """

    def __init__(self, images: ImageSet, size: int) -> None:
        self._images, self._size = images, size

    def __len__(self) -> int:
        return len(self._images.names)

    def __getitem__(self, index: int) -> tuple[int, Tensor | ImageFailure | UserError]:
        try:
            return index, read_model_input(self._images, index, self._size)
        except (ImageFailure, UserError) as error:
            return index, error


class _ReadBatch(NamedTuple):
    """Images as a reading process passes them on: in one tensor, because each tensor costs a file descriptor.

    `pixels` is uint8 [b, 3, S, S], or None if no image can be read. `indices` and `failures` are as in `FeatureBatch`.
    """

    pixels: Tensor | None
    indices: list[int]
    failures: dict[int, str]
    error: UserError | None


def _collate(items: Sequence[tuple[int, Tensor | ImageFailure | UserError]]) -> _ReadBatch:
    readable = {index: item for index, item in items if isinstance(item, Tensor)}
    failures = {index: str(item) for index, item in items if isinstance(item, ImageFailure)}
    error = next((item for _, item in items if isinstance(item, UserError)), None)
    return _ReadBatch(torch.stack(list(readable.values())) if readable else None, list(readable), failures, error)


def default_readers(workers: int = 1) -> int:
    """Return the default number of processes that read images for each of the workers that share this machine."""
    return max(min(available_cores() // workers, MAX_DEFAULT_READERS), 1)


def extract_features(
    networks: Sequence[Any], images: ImageSet, size: int, device: torch.device, batch_size: int, readers: int | None
) -> Iterator[FeatureBatch]:
    """Extract the features of an image set by several networks, and yield them batch by batch, in order.

    Args:
        networks: modules with a method `features`; they are moved to the device.
        images: the image set.
        size: side of the images that the networks see, in pixels.
        device: where the networks run.
        batch_size: number of images per pass.
        readers: number of processes that read, crop and corrupt images; 0 reads in this process, None starts one per
            core, at most 16. A set of at most one batch is always read in this process.

    Raises UserError if the storage of the images fails or a reading process dies.
    """
    readers = default_readers() if readers is None else readers
    networks, inputs = [network.to(device) for network in networks], _ModelInputs(images, size)
    inputs[0]  # imports and compiles what the corruptions need, once, before processes are forked
    loader = DataLoader(
        inputs,
        batch_size,
        num_workers=0 if len(images.names) <= batch_size else readers,
        collate_fn=_collate,
    )
    for batch in _with_reader_errors(loader):
        if batch.error:
            raise batch.error
        vectors = [] if batch.pixels is None else _compute_features(networks, batch.pixels, device)
        yield FeatureBatch(vectors, np.array(batch.indices, np.int64), batch.failures)


def _with_reader_errors(loader: Iterable[T]) -> Iterator[T]:
    """Iterate over a DataLoader. Raises UserError if one of its processes dies."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads images died: {describe_error(error)}; if memory ran out, use fewer --readers"
        ) from None


@torch.inference_mode()
def _compute_features(networks: Sequence[Any], pixels: Tensor, device: torch.device) -> list[np.ndarray]:
    batch = pixels.to(device, non_blocking=True).float() / 255
    return [network.features(batch).float().cpu().numpy() for network in networks]
