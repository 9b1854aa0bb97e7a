"""How the samples of a batch become cropped images: on the host's cores, or on the device that trains.

A batch is made of pieces. For each piece, threads or processes of the host do what needs many small operations; then
the feed makes images of it.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Any

import torch

from common.parallel import decoder_result
from trainer.data.decoding import Batch, SampleRequest, ViewSpec, concat_batches, decode_piece, pin_batch


class Feed(ABC):
    """Makes batches of samples.

    Attributes:
        spec: what to make of each sample.
        samples_per_piece: number of samples that are processed in one call.
    """

    samples_per_piece: int

    def __init__(self, spec: ViewSpec) -> None:
        self.spec = spec

    @abstractmethod
    def submit(self, pool: Executor, piece: Sequence[SampleRequest]) -> "Future[Any]":
        """Start the host's work on a piece, in the pool of decoders."""

    @abstractmethod
    def finish(self, piece: Sequence[SampleRequest], future: "Future[Any]") -> Batch:
        """Return a piece that was submitted. Raises UnreadableSample for the first sample that cannot be decoded."""

    @abstractmethod
    def join(self, pieces: Sequence[Batch]) -> Batch:
        """Return the batch of the pieces."""

    def device_context(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which `finish` and `join` must be called."""
        return contextlib.nullcontext()

    def hand_over(self, batch: Batch) -> Batch:
        """Return a batch for use in the calling thread, which trains."""
        return batch


class HostFeed(Feed):
    """Decodes and crops on the host's cores."""

    samples_per_piece = 16

    def submit(self, pool: Executor, piece: Sequence[SampleRequest]) -> "Future[Batch]":
        return pool.submit(decode_piece, piece, self.spec)

    def finish(self, piece: Sequence[SampleRequest], future: "Future[Batch]") -> Batch:
        return decoder_result(future)

    def join(self, pieces: Sequence[Batch]) -> Batch:
        batch = concat_batches(pieces)
        return pin_batch(batch) if torch.cuda.is_available() else batch
