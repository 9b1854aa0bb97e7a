"""The samples that the page of a run shows: a few of the training data, the same ones in every epoch."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from common import page
from common.errors import UserError, describe_error
from common.images import decode_jpeg
from common.images.orientation import to_upright_image
from common.shards import Sample, read_samples
from common.storage import Storage, open_storage
from trainer.data.crops import resize_frame
from trainer.data.dataset import Dataset

SAMPLES = 8
CANDIDATES = 64  # first samples of a shard, among which those shown are drawn: shards hold images in random order
SAMPLES_SEED = 12


class PageSample(NamedTuple):
    """A sample as the page shows it and as the model sees it.

    Attributes:
        source: path of the source image, relative to the input of the labeling job.
        photograph: a small upright JPEG.
        attention: the teacher's map, or the target that replaces it, in the frame of the stored pixels, uint8 [M, M].
        size: width and height of the stored pixels.
        orientation: EXIF orientation, which turns the stored pixels upright.
        clean: the whole frame of stored pixels, uint8 [3, S, S].
    """

    source: str
    photograph: bytes
    attention: np.ndarray
    size: tuple[int, int]
    orientation: int
    clean: Tensor


def draw_samples(sizes: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """Draw the samples to show: sorted pairs of a shard and an index in it, at most `SAMPLES`.

    They are the same for the same sizes of shards and seed. All are in one shard if it is large enough, so that little
    is read.
    """
    generator = np.random.default_rng([seed, SAMPLES_SEED])
    candidates: list[tuple[int, int]] = []
    for shard in generator.permutation(len(sizes)).tolist():
        candidates += [(shard, index) for index in range(min(sizes[shard], CANDIDATES))]
        if len(candidates) >= SAMPLES:
            break
    chosen = generator.permutation(len(candidates))[:SAMPLES]
    return sorted(candidates[number] for number in chosen.tolist())


def read_page_samples(data: Dataset, seed: int, image_size: int) -> list[PageSample]:
    """Read the samples that `draw_samples` chooses, for a model that takes images of `image_size` pixels.

    Raises UserError if one of them cannot be read.
    """
    storage = open_storage(data.location)
    samples = []
    for shard, group in itertools.groupby(draw_samples(data.sizes, seed), key=lambda chosen: chosen[0]):
        samples += _read_from_shard(storage, data.shards[shard], [index for _, index in group], image_size)
    return samples


def _read_from_shard(storage: Storage, shard: str, indices: Sequence[int], image_size: int) -> list[PageSample]:
    try:
        with storage.open(shard) as file:
            first = list(itertools.islice(read_samples(file), indices[-1] + 1))
        return [_decode(Sample.from_members(*first[index]), image_size) for index in indices]
    except Exception as error:  # tarfile, decoders and stores raise many types for damaged or missing bytes
        raise UserError(f"{storage.location}/{shard} cannot be read: {describe_error(error)}") from None


def _decode(sample: Sample, image_size: int) -> PageSample:
    if sample.jpeg is None:
        raise ValueError(f"sample {sample.key} has no image")
    info = sample.info
    image = page.open_picture(sample.jpeg)
    return PageSample(
        info.source,
        page.thumbnail(to_upright_image(image, info.exif_orientation)),
        sample.attention,
        (info.width, info.height),
        info.exif_orientation,
        resize_frame(decode_jpeg(sample.jpeg), image_size),
    )
