"""Decoding of samples into pieces of a batch, in any thread or process.

A sample's JPEG is decoded once and cropped several times. Functions receive all that they need as arguments, so that
they can run in worker processes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import describe_error
from common.images import decode_jpeg
from common.shards import decode_map, decode_points
from trainer.data.augment import SIMCLR_VIEWS, Draw, ViewSettings, pack_parameters
from trainer.data.crops import concat_images, crop_and_resize, draw_crop, resize_frame, stack_images

NO_CLASS = -1  # label of samples without a class

Members = dict[str, bytes]  # contents of a sample's files by extension; webdataset adds the key as `__key__`


class SampleRequest(NamedTuple):
    """A sample to decode, and the random seed of its views."""

    members: Members
    seed: tuple[int, ...]


class ViewSpec(NamedTuple):
    """What to make of each sample.

    Attributes:
        size: side of views and clean images in pixels.
        views: one function per view that draws the augmentation of a random crop.
        classes: number of classes, which labels must not exceed; None if the data set has none.
        settings: settings of the views.
    """

    size: int
    views: Sequence[Draw]
    classes: int | None
    settings: ViewSettings = SIMCLR_VIEWS


class UnreadableSample(Exception):
    """A sample of a piece cannot be decoded.

    Attributes:
        position: index of the sample in the piece.
        reason: why it cannot be decoded.
    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(position, reason)  # `args` must be the arguments for the exception to be picklable
        self.position, self.reason = position, reason


class DecodedSample(NamedTuple):
    """One sample of a batch.

    Attributes:
        views: V random crops, not yet augmented, uint8 [V, 3, S, S].
        clean: the whole frame, uint8 [3, S, S].
        augmentation: parameters of the views' augmentation, as `augment` takes them, float32 [V, 11].
        attention: attention map of the whole frame, uint8 [M, M].
        gaze: gaze points of the whole frame, float32 [n, 3]: x, y and strength, each in [0, 1].
        label: class index, or NO_CLASS.
        key: the sample's key in its shard.
    """

    views: Tensor
    clean: Tensor
    augmentation: Tensor
    attention: Tensor
    gaze: np.ndarray
    label: int
    key: str


class Batch(NamedTuple):
    """Several samples, B in number.

    Attributes:
        views: V random crops of each sample, not yet augmented, uint8 [B, V, 3, S, S].
        clean: whole frames, uint8 [B, 3, S, S].
        augmentation: parameters of the views' augmentation, as `augment` takes them, float32 [B, V, 11].
        attention: attention maps of the clean images, uint8 [B, M, M].
        gaze: gaze points of the clean images, B arrays [n, 2 or more] of x and y in [0, 1].
        labels: class indices, int64 [B]; NO_CLASS for samples without a class.
        keys: the samples' keys in their shards.
        skipped: number of samples that replace samples which cannot be read.
    """

    views: Tensor
    clean: Tensor
    augmentation: Tensor
    attention: Tensor
    gaze: list[np.ndarray]
    labels: Tensor
    keys: list[str]
    skipped: int


def decode_piece(requests: Sequence[SampleRequest], spec: ViewSpec) -> Batch:
    """Decode several samples, a piece of a batch.

    Raises UnreadableSample for the first sample that cannot be decoded or has an invalid class.
    """
    samples = []
    for position, (members, seed) in enumerate(requests):
        try:
            sample = decode_sample(members, spec, np.random.default_rng(seed))
            if spec.classes is not None and not 0 <= sample.label < spec.classes:
                raise ValueError(f"class {sample.label} of {spec.classes}")
        except Exception as error:  # decoders raise many types for damaged bytes
            raise UnreadableSample(position, describe_error(error)) from None
        samples.append(sample)
    views, clean, augmentation, attention, gaze, labels, keys = zip(*samples, strict=True)
    return Batch(
        stack_images(views),
        stack_images(clean),
        torch.stack(augmentation),
        torch.stack(attention),
        list(gaze),
        torch.tensor(labels),
        list(keys),
        skipped=0,
    )


def decode_sample(members: Members, spec: ViewSpec, generator: np.random.Generator) -> DecodedSample:
    """Decode a sample once, and make its views and clean image.

    Raises what the decoders raise for damaged members, and KeyError for missing ones.
    """
    pixels = decode_jpeg(members["jpg"])
    height, width = pixels.shape[1:]
    crops = [draw_crop(generator, height, width, spec.settings.min_crop) for _ in spec.views]
    parameters = [pack_parameters(draw(generator, spec.settings)) for draw in spec.views]
    return DecodedSample(
        views=stack_images([crop_and_resize(pixels, crop, spec.size) for crop in crops]),
        clean=resize_frame(pixels, spec.size),
        augmentation=torch.tensor(parameters),
        attention=torch.from_numpy(decode_map(members["attn.png"]).copy()),
        gaze=decode_points(members["gaze.npy"]),
        label=int(members["cls"]) if "cls" in members else NO_CLASS,
        key=str(members["__key__"]),
    )


def concat_batches(pieces: Sequence[Batch]) -> Batch:
    """Concatenate the pieces of a batch."""
    views, clean, augmentation, attention, gaze, labels, keys, skipped = zip(*pieces, strict=True)
    return Batch(
        concat_images(views),
        concat_images(clean),
        torch.cat(augmentation),
        torch.cat(attention),
        [points for piece in gaze for points in piece],
        torch.cat(labels),
        [key for piece in keys for key in piece],
        sum(skipped),
    )


def pin_batch(batch: Batch) -> Batch:
    """Copy a batch into page-locked memory, from which a GPU can copy it asynchronously."""
    return batch._replace(
        views=batch.views.pin_memory(),
        clean=batch.clean.pin_memory(),
        augmentation=batch.augmentation.pin_memory(),
        attention=batch.attention.pin_memory(),
        labels=batch.labels.pin_memory(),
    )
