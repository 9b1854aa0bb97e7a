"""Samples of shards -> parts of a batch: decoded once, cropped three times, side by side.

Any thread or process can do it: what it needs comes with the call.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import describe_error
from common.images import decode_jpeg
from common.shards import decode_map, decode_points
from trainer.data.augment import Draw, pack_parameters
from trainer.data.crops import concat_images, crop_and_resize, draw_crop, resize_frame, stack_images

NO_CLASS = -1

Members = dict[str, bytes]


class SampleRequest(NamedTuple):
    """A sample of a shard, and the seed of its views."""

    members: Members
    seed: tuple[int, ...]


class ViewSpec(NamedTuple):
    """How samples are looked at: the side of the images, what happens to each view, and how many classes there are."""

    size: int
    views: Sequence[Draw]
    classes: int | None


class UnreadableSample(Exception):
    """Sample `args[0]` of a piece cannot be decoded, and why."""


class DecodedSample(NamedTuple):
    """One image as a step needs it: uint8 views [V, 3, S, S] and whole frame [3, S, S], the views' parameters [V, 11],
    the attention map uint8 [M, M], gaze points [n, 3], class index (-1: none) and key."""

    views: Tensor
    clean: Tensor
    augmentation: Tensor
    attention: Tensor
    gaze: np.ndarray
    label: int
    key: str


class Batch(NamedTuple):
    """Samples side by side; `skipped` of them stand for samples that could not be read."""

    views: Tensor
    clean: Tensor
    augmentation: Tensor
    attention: Tensor
    gaze: list[np.ndarray]
    labels: Tensor
    keys: list[str]
    skipped: int


def decode_piece(wanted: Sequence[SampleRequest], look: ViewSpec) -> Batch:
    """Some samples of a batch. Raises Unreadable."""
    samples = []
    for position, (members, seed) in enumerate(wanted):
        try:
            sample = decode_sample(members, look.size, look.views, np.random.default_rng(seed))
            if look.classes is not None and not 0 <= sample.label < look.classes:
                raise ValueError(f"class {sample.label} of {look.classes}")
        except Exception as error:  # decoders raise many kinds on damaged bytes
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


def decode_sample(members: Members, size: int, views: Sequence[Draw], generator: np.random.Generator) -> DecodedSample:
    """Decode a sample once, crop each view and the whole frame. Raises what decoders raise on damaged members."""
    pixels = decode_jpeg(members["jpg"])
    crops = [draw_crop(generator, *pixels.shape[1:]) for _ in views]
    parameters = [pack_parameters(draw(generator)) for draw in views]
    return DecodedSample(
        views=stack_images([crop_and_resize(pixels, crop, size) for crop in crops]),
        clean=resize_frame(pixels, size),
        augmentation=torch.tensor(parameters),
        attention=torch.from_numpy(decode_map(members["attn.png"]).copy()),
        gaze=decode_points(members["gaze.npy"]),
        label=int(members["cls"]) if "cls" in members else NO_CLASS,
        key=str(members["__key__"]),
    )


def concat_batches(pieces: Sequence[Batch]) -> Batch:
    """The pieces of a batch, one after the other."""
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
    """The batch in page-locked memory, from which a GPU copies while the program goes on."""
    return batch._replace(
        views=batch.views.pin_memory(),
        clean=batch.clean.pin_memory(),
        augmentation=batch.augmentation.pin_memory(),
        attention=batch.attention.pin_memory(),
        labels=batch.labels.pin_memory(),
    )
