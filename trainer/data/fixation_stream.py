"""Human-labelled images for co-training: as many each step as wanted, beside the shards' batches."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.fixations import FixatedImage, exclusion_notes, open_fixations
from common.fixations.data import SALICON_SIGMA
from common.parallel import Decoders, decoder_result, in_order
from trainer.data.crops import resize_frame
from trainer.data.decoding import Batch
from trainer.data.sampler import rank_slots
from trainer.data.stream import BATCHES_AHEAD

OnNote = Callable[[str], None]
ORDER = 3  # beside the sampler's and the stream's own random numbers


class HumanSample(NamedTuple):
    """A photograph that people looked at: the whole frame uint8 [3, S, S], its map uint8 [S, S], x, y in [0, 1]."""

    image: Tensor
    attention: Tensor
    fixations: np.ndarray


def ignore_note(note: str) -> None:
    """OnNote nothing."""


@cache
def print_note_once(note: str) -> None:
    """OnNote on stderr, once for all runs of a study that open the same photographs."""
    print(note, file=sys.stderr)


def open_human_data(locations: Sequence[str], tell: OnNote = ignore_note) -> list[FixatedImage]:
    """The photographs of all data sets; of one with a split `train` only those of it.

    `tell` is told what was left out. Raises UserError.
    """
    found: list[FixatedImage] = []
    for location in locations:
        images, excluded, first_excluded = open_fixations(location, "--human-data")
        for note in exclusion_notes(location, excluded, first_excluded):
            tell(note)
        splits = {image.split for image in images}
        found += [image for image in images if image.split == "train" or "train" not in splits]
    return found


def fixations_checksum(images: Sequence[FixatedImage]) -> str:
    """What tells two lots of photographs with fixations apart."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.name}\n{image.width} {image.height}\n".encode())
        digest.update(image.fixations.tobytes())
    return digest.hexdigest()


class HumanStream:
    """A rank's part of the human-labelled images of every step, from any step of the run on.

    They stand in a row, epoch after epoch, each in an order drawn by seed and epoch; every step takes the next
    `batch_size`. So a batch may hold more than there are. Raises UserError where ranks' parts would not be equal, and
    for an image that cannot be read.
    """

    def __init__(
        self,
        images: Sequence[FixatedImage],
        batch_size: int,
        seed: int,
        image_size: int,
        rank: int,
        world: int,
        decoders: Decoders,
    ) -> None:
        self._images, self._batch_size, self._seed, self._size = images, batch_size, seed, image_size
        self._slots = rank_slots(batch_size, world, rank, "--human-batch-size")
        self._decoders = decoders

    def batches(self, first: int, end: int) -> Iterator[list[HumanSample]]:
        """Those of steps first ... end - 1."""
        with self._decoders.pool() as decoders, ThreadPoolExecutor(1) as waiter:
            steps = (self._submitted(decoders, step) for step in range(first, end))
            yield from in_order(waiter, lambda samples: list(map(decoder_result, samples)), steps, BATCHES_AHEAD)

    def replace_clean(self, batches: Iterator[Batch], first: int, end: int) -> Iterator[Batch]:
        """The shards' batches from the same steps, with human-labelled images for their clean ones."""
        for batch, samples in zip(batches, self.batches(first, end), strict=True):
            images, maps, fixations = zip(*samples, strict=True)
            yield batch._replace(clean=torch.stack(images), attention=torch.stack(maps), gaze=list(fixations))

    def _submitted(self, decoders: Executor, step: int) -> "list[Future[HumanSample]]":
        positions = (step * self._batch_size + slot for slot in self._slots)
        places = (divmod(position, len(self._images)) for position in positions)
        chosen = [self._images[self._order(epoch)[at]] for epoch, at in places]
        return [decoders.submit(decode_human_sample, image, self._size) for image in chosen]

    @lru_cache(maxsize=4)  # noqa: B019 - a run has one stream
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, ORDER, epoch]).permutation(len(self._images))


def decode_human_sample(image: FixatedImage, size: int) -> HumanSample:
    """Decode a photograph and make its map, both stretched to a square as the shards' clean images are.

    The map's sigma is 19 pixels at a width of 640, in the photograph's own shape. Raises UserError.
    """
    height = max(round(size * image.height / image.width), 1)
    attention = image.attention_map(height, size, SALICON_SIGMA * size)[None, None]
    if height != size:
        attention = F.interpolate(attention, (size, size), mode="bilinear", antialias=True)
    grey = (attention[0, 0] / attention.max() * 255).round().to(torch.uint8)
    return HumanSample(resize_frame(image.pixels(), size), grey, image.fixations)
