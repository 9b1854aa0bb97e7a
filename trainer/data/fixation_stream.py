"""Images with human fixations for co-training, streamed alongside the batches of the shards."""

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
from common.parallel import Decoders, decoder_result, in_order
from trainer.data.crops import resize_frame
from trainer.data.decoding import Batch
from trainer.data.sampler import HUMAN_ORDER_SEED, rank_slots
from trainer.data.stream import BATCHES_AHEAD

OnNote = Callable[[str], None]  # called with a sentence about images or fixations that are excluded


class HumanSample(NamedTuple):
    """A photograph with human fixations, ready for a batch.

    Attributes:
        image: the whole frame, uint8 [3, S, S].
        attention: human attention map of the frame, uint8 [S, S], scaled to a maximum of 255.
        fixations: fixations of all subjects, float32 [n, 2] of x and y in (0, 1).
    """

    image: Tensor
    attention: Tensor
    fixations: np.ndarray


def ignore_note(note: str) -> None:
    """Do nothing with a note."""


@cache
def print_note_once(note: str) -> None:
    """Print a note to stderr, once per process, although the runs of a study open the same photographs repeatedly."""
    print(note, file=sys.stderr)


def open_human_data(locations: Sequence[str], on_note: OnNote = ignore_note) -> list[FixatedImage]:
    """Open the photographs of all data sets; of data sets with a split `train`, only this split.

    Args:
        locations: data sets as `FORMAT:FOLDER`.
        on_note: called with a sentence for each reason why something is excluded.

    Raises UserError if a data set cannot be opened.
    """
    training_images: list[FixatedImage] = []
    for location in locations:
        images, excluded, first_excluded = open_fixations(location, "--human-data")
        for note in exclusion_notes(location, excluded, first_excluded):
            on_note(note)
        splits = {image.split for image in images}
        training_images += [image for image in images if image.split == "train" or "train" not in splits]
    return training_images


def fixations_checksum(images: Sequence[FixatedImage]) -> str:
    """Return a SHA-256 of the names, sizes and fixations of photographs, which identifies the data of a run."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.name}\n{image.width} {image.height}\n".encode())
        digest.update(image.fixations.tobytes())
    return digest.hexdigest()


class HumanStream:
    """A rank's part of the photographs with fixations of every step, from any step of the run.

    The photographs form an endless sequence, epoch after epoch, each in an order that depends on the seed and the
    epoch. Every step takes the next `batch_size` of them, which may be more than there are photographs.

    Args:
        images: the photographs.
        batch_size: photographs per step, over all ranks.
        seed: random seed of the order.
        image_size: side of clean images and maps in pixels.
        rank: index of this rank.
        world_size: number of ranks.
        decoders: threads or processes that decode.

    Raises UserError if a batch cannot be divided equally among the ranks and, during iteration, if an image cannot be
    read.
    """

    def __init__(
        self,
        images: Sequence[FixatedImage],
        batch_size: int,
        seed: int,
        image_size: int,
        rank: int,
        world_size: int,
        decoders: Decoders,
    ) -> None:
        self._images, self._batch_size, self._seed, self._image_size = images, batch_size, seed, image_size
        self._slots = rank_slots(batch_size, world_size, rank, "--human-batch-size")
        self._decoders = decoders

    def batches(self, first: int, end: int) -> Iterator[list[HumanSample]]:
        """Yield the samples of steps `first` to `end - 1`."""
        with self._decoders.pool() as decoders, ThreadPoolExecutor(1) as waiter:
            steps = (self._submit(decoders, step) for step in range(first, end))
            yield from in_order(waiter, lambda futures: list(map(decoder_result, futures)), steps, BATCHES_AHEAD)

    def replace_clean(self, batches: Iterator[Batch], first: int, end: int) -> Iterator[Batch]:
        """Yield the given batches, of steps `first` to `end - 1`, with this stream's images in place of the clean ones.

        Their maps and fixations replace `attention` and `gaze`; views and labels stay those of the shards.
        """
        for batch, samples in zip(batches, self.batches(first, end), strict=True):
            images, maps, fixations = zip(*samples, strict=True)
            yield batch._replace(clean=torch.stack(images), attention=torch.stack(maps), gaze=list(fixations))

    def _submit(self, decoders: Executor, step: int) -> "list[Future[HumanSample]]":
        """Submit the samples of a step for decoding."""
        positions = (step * self._batch_size + slot for slot in self._slots)
        locations = (divmod(position, len(self._images)) for position in positions)
        chosen = [self._images[self._order(epoch)[position]] for epoch, position in locations]
        return [decoders.submit(decode_human_sample, image, self._image_size) for image in chosen]

    @lru_cache(maxsize=4)  # noqa: B019 - a run has one stream
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, HUMAN_ORDER_SEED, epoch]).permutation(len(self._images))


def decode_human_sample(image: FixatedImage, size: int) -> HumanSample:
    """Decode a photograph and compute its attention map, both resized to `size` x `size` like the shards' clean images.

    The map is blurred in the photograph's own aspect ratio, with a standard deviation of 19 pixels at a width of 640,
    and then resized. Raises UserError if the photograph cannot be read.
    """
    height = max(round(size * image.height / image.width), 1)
    attention = image.attention_map(height, size)[None, None]
    if height != size:
        attention = F.interpolate(attention, (size, size), mode="bilinear", antialias=True)
    stored_map = (attention[0, 0] / attention.max() * 255).round().to(torch.uint8)
    return HumanSample(resize_frame(image.pixels(), size), stored_map, image.fixations)
