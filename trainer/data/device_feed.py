"""Batches whose JPEGs are decoded and cropped on the device that trains."""

import contextlib
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.errors import describe_error
from common.images import decode_jpeg
from common.images.gpu_decoder import Decode, find_decoder
from common.images.jpeg import BASELINE, read_jpeg_header
from common.parallel import decoder_result
from trainer.data.batched_crops import crop_batch
from trainer.data.crops import stack_images
from trainer.data.decoding import (
    Annotations,
    Batch,
    DamagedSample,
    DecodedSample,
    Members,
    SampleRequest,
    UnreadableSample,
    ViewDraws,
    ViewSpec,
    collate,
    concat_batches,
    decode_annotations,
    draw_views,
)
from trainer.data.feed import Feed, HostFeed


class Outline(NamedTuple):
    """Height and width of a sample that is decoded already."""

    height: int
    width: int


class HostPart(NamedTuple):
    """What the host prepares of a piece for the device.

    Attributes:
        draws: of each sample's views.
        annotations: of each sample; empty for samples that are decoded already.
        pixels: of each sample that the device cannot decode, uint8 [3, H, W], and None for the others; empty for
            samples that are decoded already.
    """

    draws: list[ViewDraws]
    annotations: list[Annotations]
    pixels: list[Tensor | None]


class DeviceFeed(Feed):
    """Decodes JPEGs and crops images on the device; the host decodes what the device cannot, and draws the crops.

    The samples of a piece may be decoded already (`trainer.data.memory_cache`), on the device or on the host.

    Args:
        spec: what to make of each sample.
        device: where the batches are made; a CPU only in tests.
        decode: decodes JPEGs on the device; None if all samples are decoded already.
    """

    samples_per_piece = 64

    def __init__(self, spec: ViewSpec, device: torch.device, decode: Decode | None) -> None:
        super().__init__(spec)
        self._device, self._decode = device, decode
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Of the threads that assemble batches, one at a time may queue work: the decoder ignores the stream and would
        # write into memory that another thread has released, and that its queued work still reads
        self._lock = threading.Lock()

    def submit(self, pool: Executor, piece: Sequence[SampleRequest]) -> "Future[HostPart]":
        requests = [
            (Outline(*sample.pixels.shape[1:]) if isinstance(sample, DecodedSample) else sample, seed)
            for sample, seed in piece
        ]
        return pool.submit(prepare_piece, requests, self.spec)

    def finish(self, piece: Sequence[SampleRequest], future: "Future[HostPart]") -> Batch:
        draws, annotations, pixels = decoder_result(future)
        decoded = [sample for sample, _ in piece if isinstance(sample, DecodedSample)]
        jpegs = [sample["jpg"] for sample, _ in piece if isinstance(sample, dict)]
        with self._lock:
            if decoded:
                return self._crop([sample.pixels for sample in decoded], draws, [sample[1] for sample in decoded])
            return self._crop(self._decode_jpegs(jpegs, pixels), draws, annotations)

    def _crop(self, images: Sequence[Tensor], draws: Sequence[ViewDraws], annotations: Sequence[Annotations]) -> Batch:
        """Return the piece of these images, in the device's memory."""
        images = [image.to(self._device, non_blocking=True) for image in images]
        crops = crop_batch(images, torch.tensor([drawn.crops for drawn in draws]), self.spec.size)
        batch = collate(stack_images(list(crops[:, :-1])), stack_images(list(crops[:, -1])), draws, annotations)
        return batch._replace(
            augmentation=batch.augmentation.to(self._device),
            attention=batch.attention.to(self._device),
            labels=batch.labels.to(self._device),
        )

    def join(self, pieces: Sequence[Batch]) -> Batch:
        with self._lock:
            batch = concat_batches(pieces)
            if self._stream is not None:
                self._stream.synchronize()
            return batch

    def device_context(self) -> contextlib.AbstractContextManager[Any]:
        """Use a stream of its own, so that nothing waits for the training step, nor the step for anything."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def hand_over(self, batch: Batch) -> Batch:
        """Let the allocator reuse the batch's memory only after the work that the calling thread queues on it."""
        if self._stream is not None:
            for tensor in (batch.views, batch.clean, batch.augmentation, batch.attention, batch.labels):
                tensor.record_stream(torch.cuda.current_stream(self._device))
        return batch

    def _decode_jpegs(self, jpegs: Sequence[bytes], pixels: Sequence[Tensor | None]) -> list[Tensor]:
        """Return the pixels of each sample, decoding those that the host has not decoded.

        If the device fails, as it does for all if one JPEG is damaged, the host decodes them.
        """
        waiting = [jpeg for jpeg, image in zip(jpegs, pixels, strict=True) if image is None]
        try:
            decoded = iter(self._decode(waiting) if waiting and self._decode else [])
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError):
            decoded = map(decode_jpeg, waiting)
        images = []
        for position, image in enumerate(pixels):
            try:
                images.append(next(decoded) if image is None else image)
            except ValueError as error:
                raise UnreadableSample(position, describe_error(error)) from None
        return images


def make_feed(spec: ViewSpec, device: torch.device, decoded: bool, log: bool = False) -> Feed:
    """Return the feed for a device.

    Args:
        spec: what to make of each sample.
        device: the device that trains.
        decoded: whether all samples are decoded already.
        log: whether to print why a GPU cannot decode JPEGs.
    """
    if device.type == "cpu":
        return HostFeed(spec)
    if decoded:
        return DeviceFeed(spec, device, None)
    decode, warning = find_decoder(device)
    if warning and log:
        print(warning, file=sys.stderr)
    return DeviceFeed(spec, device, decode) if decode else HostFeed(spec)


def prepare_piece(
    requests: Sequence[tuple[Members | DamagedSample | Outline, tuple[int, ...]]], spec: ViewSpec
) -> HostPart:
    """Do the host's part of a piece: each sample, or its outline, with the random seed of its views.

    Raises UnreadableSample for the first sample that cannot be decoded or has an invalid class.
    """
    part = HostPart([], [], [])
    for position, (sample, seed) in enumerate(requests):
        try:
            if isinstance(sample, DamagedSample):
                raise ValueError(sample.reason)
            if isinstance(sample, Outline):
                size = sample
            else:
                size, pixels = _read_size(sample["jpg"])
                part.annotations.append(decode_annotations(sample, spec.classes))
                part.pixels.append(pixels)
            part.draws.append(draw_views(size, seed, spec))
        except Exception as error:  # decoders raise many types for damaged bytes
            raise UnreadableSample(position, describe_error(error)) from None
    return part


def _read_size(jpeg: bytes) -> tuple[Outline, Tensor | None]:
    """Return the size of a JPEG, and its pixels unless it is a complete baseline JPEG in RGB or gray."""
    header = read_jpeg_header(jpeg)
    is_simple = header is not None and header.start_of_frame == BASELINE and len(header.components) in (1, 3)
    if header is not None and is_simple and header.complete:
        return Outline(header.height, header.width), None
    pixels = decode_jpeg(jpeg)
    return Outline(*pixels.shape[1:]), pixels
