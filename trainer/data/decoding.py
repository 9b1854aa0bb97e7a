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
from trainer.data.crops import Crop, concat_images, crop_and_resize, draw_crop, stack_images

NO_CLASS = -1  # label of samples without a class

Members = dict[str, bytes]  # contents of a sample's files by extension; webdataset adds the key as `__key__`


class Annotations(NamedTuple):
    """What a sample has besides its image.

    Attributes:
        attention: attention map of the whole frame, uint8 [M, M].
        gaze: gaze points of the whole frame, float32 [n, 3]: x, y and strength, each in [0, 1].
        label: class index, or NO_CLASS.
        key: the sample's key in its shard.
    """

    attention: Tensor
    gaze: np.ndarray
    label: int
    key: str


class DecodedSample(NamedTuple):
    """A decoded sample: its pixels, uint8 [3, H, W], and its annotations."""

    pixels: Tensor
    annotations: Annotations


class DamagedSample(NamedTuple):
    """A sample that could not be decoded, and why."""

    key: str
    reason: str


StoredSample = Members | DecodedSample | DamagedSample  # as a source of samples returns it


class SampleRequest(NamedTuple):
    """A sample of a batch, and the random seed of its views."""

    sample: StoredSample
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


class ViewDraws(NamedTuple):
    """What is drawn for the views of a sample.

    Attributes:
        crops: one per view, and the whole frame as the last one.
        parameters: of each view's augmentation, as `augment` takes them.
    """

    crops: list[Crop]
    parameters: list[list[float]]


class UnreadableSample(Exception):
    """A sample of a piece cannot be decoded.

    Attributes:
        position: index of the sample in the piece.
        reason: why it cannot be decoded.
    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(position, reason)  # `args` must be the arguments for the exception to be picklable
        self.position, self.reason = position, reason


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
    """Decode and crop several samples, a piece of a batch.

    Raises UnreadableSample for the first sample that cannot be decoded or has an invalid class.
    """
    samples, draws, views, clean = [], [], [], []
    for position, (stored, seed) in enumerate(requests):
        try:
            sample = decode_sample(stored, spec.classes)
            drawn = draw_views(sample.pixels.shape[1:], seed, spec)
            images = [crop_and_resize(sample.pixels, crop, spec.size) for crop in drawn.crops]
        except Exception as error:  # decoders raise many types for damaged bytes
            raise UnreadableSample(position, describe_error(error)) from None
        samples.append(sample.annotations)
        draws.append(drawn)
        views.append(stack_images(images[:-1]))
        clean.append(images[-1])
    return collate(stack_images(views), stack_images(clean), draws, samples)


def decode_sample(stored: StoredSample, classes: int | None) -> DecodedSample:
    """Decode a sample unless it is decoded already.

    Raises ValueError for a damaged sample or a class that is not one of `classes`, KeyError for missing members, and
    what else the decoders raise.
    """
    if isinstance(stored, DecodedSample):
        return stored
    if isinstance(stored, DamagedSample):
        raise ValueError(stored.reason)
    return DecodedSample(decode_jpeg(stored["jpg"]), decode_annotations(stored, classes))


def sample_key(stored: StoredSample) -> str:
    """Return the key of a sample in its shard."""
    if isinstance(stored, DecodedSample):
        return stored.annotations.key
    return stored.key if isinstance(stored, DamagedSample) else str(stored["__key__"])


def decode_annotations(members: Members, classes: int | None) -> Annotations:
    """Decode all of a sample but its image. Raises as `decode_sample` does."""
    attention = torch.from_numpy(decode_map(members["attn.png"]).copy())
    gaze = decode_points(members["gaze.npy"])
    if gaze.ndim != 2 or gaze.shape[1] < 2 or not ((gaze[:, :2] >= 0) & (gaze[:, :2] <= 1)).all():
        raise ValueError(f"gaze points {list(gaze.shape)}: expected [n, 3], with x and y in [0, 1]")
    return Annotations(attention, gaze, decode_label(members, classes), str(members["__key__"]))


def decode_label(members: Members, classes: int | None) -> int:
    """Return a sample's class index, or NO_CLASS. Raises ValueError if it is not one of `classes`, if there are any."""
    label = int(members["cls"]) if "cls" in members else NO_CLASS
    if classes is not None and not 0 <= label < classes:
        raise ValueError(f"class {label} of {classes}")
    return label


def draw_views(size: Sequence[int], seed: tuple[int, ...], spec: ViewSpec) -> ViewDraws:
    """Draw the crops and the augmentation of the views of an image with a height and a width."""
    height, width = size
    generator = np.random.default_rng(seed)
    crops = [draw_crop(generator, height, width, spec.settings.min_crop) for _ in spec.views]
    parameters = [pack_parameters(draw(generator, spec.settings)) for draw in spec.views]
    return ViewDraws([*crops, Crop(0, 0, height, width)], parameters)


def collate(views: Tensor, clean: Tensor, draws: Sequence[ViewDraws], annotations: Sequence[Annotations]) -> Batch:
    """Make a batch of cropped images and of what belongs to each of them."""
    attention, gaze, labels, keys = zip(*annotations, strict=True)
    parameters = torch.tensor([drawn.parameters for drawn in draws])
    return Batch(views, clean, parameters, torch.stack(attention), list(gaze), torch.tensor(labels), list(keys), 0)


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
