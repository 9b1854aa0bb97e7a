"""Confirmation of pairs of images with similar hashes, by their pixels."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from common.parallel import available_cores, in_order
from common.progress import PROGRESS_DELAY, progress_bar
from labeler.near_duplicates.dataset import HashedDataset
from labeler.near_duplicates.samples import MatchedSample, read_samples

SIDE = 32  # pixels of the compared pictures
MIN_DECODED_SIDE = 4 * SIDE  # pixels; a JPEG decoded at less than this differs in details from a resized copy
CROPS = (0, 0.0125, 0.025, 0.0375)  # of each side, with which a picture is compared
MIN_CORRELATION = 0.93  # of the pixels, and of the details, which a blur removes
BLUR = np.array([1, 4, 6, 4, 1], np.float32) / 16  # weights of neighboring pixels
MIN_NORM = 1e-3  # of a picture that is not uniform, apart from rounding
PAIRS_AT_ONCE = 20_000  # whose pictures are in memory
PAIRS_PER_STEP = 500  # that are compared at once
MIN_READERS = 16  # threads: a request to S3 takes longer than decoding an image


def confirm_pairs(pairs: np.ndarray, datasets: Sequence[HashedDataset], threads: int | None = None) -> np.ndarray:
    """Return those of `pairs`, `PAIR_DTYPE` [n], that show the same picture.

    Images with the same source checksum do; others are read and compared. `mirrored` is set by the pixels.

    Args:
        pairs: positions that count through the hashes of all data sets.
        datasets: one or two data sets with images.
        threads: number of threads that compare images, by default one per core.

    Raises UserError if a shard is not the one of the index.
    """
    confirmed = [pairs[:0]]
    pairs = np.sort(pairs, order=["first", "second"])
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        batch = pairs[start : start + PAIRS_AT_ONCE].copy()
        positions = np.unique([batch["first"], batch["second"]])
        samples = read_samples(positions, datasets)
        first, second = (np.searchsorted(positions, batch[name]) for name in ("first", "second"))
        checksums = np.array([sample.row["source_sha256"] for sample in samples])
        is_same = checksums[first] == checksums[second]
        unclear = np.flatnonzero(~is_same)
        shown, indices = np.unique([first[unclear], second[unclear]], return_inverse=True)
        pictures = _read_pictures([samples[index] for index in shown], threads)
        direct, mirrored = _compare_pictures(pictures, *indices.reshape(2, -1))
        batch["mirrored"][unclear] = mirrored > direct
        is_same[unclear] = np.maximum(direct, mirrored) >= MIN_CORRELATION
        confirmed.append(batch[is_same])
    return np.concatenate(confirmed)


def make_views(image: Image.Image) -> np.ndarray:
    """Return the gray image with each of `CROPS`, stretched to squares, uint8 [crops, SIDE, SIDE]."""
    width, height = image.size
    boxes = [(crop * width, crop * height, (1 - crop) * width, (1 - crop) * height) for crop in CROPS]
    size, filter_ = (SIDE, SIDE), Image.Resampling.BILINEAR
    return np.stack([np.asarray(image.resize(size, filter_, box)) for box in boxes])


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the highest correlation of two images, with one of `CROPS` of one of them.

    It is the lower one of the correlations of their pixels and of their details, because different images may share
    their shapes, as objects in front of a plain background do, or sharp edges, as those of a frame.

    Args:
        first: views of n images, uint8 [n, crops, SIDE, SIDE].
        second: views of the images that these are compared with.

    Returns float [n] in [-1, 1].
    """
    first, second = first.astype(np.float32), second.astype(np.float32)
    pixels = _correlate_crops(first, second)
    details = _correlate_crops(first - _blur(first), second - _blur(second))
    return np.minimum(pixels, details).max(1)


def _read_pictures(samples: Sequence[MatchedSample], threads: int | None) -> np.ndarray:
    """Return the views of the images of some samples, uint8 [n, crops, SIDE, SIDE]."""
    views = np.empty((len(samples), len(CROPS), SIDE, SIDE), np.uint8)
    readers = max(threads or available_cores(), MIN_READERS)
    with ThreadPoolExecutor(readers) as pool:
        read = in_order(pool, lambda sample: make_views(sample.read_image("L", MIN_DECODED_SIDE)), samples, 2 * readers)
        for index, picture in enumerate(progress_bar(read, total=len(samples), unit=" images", delay=PROGRESS_DELAY)):
            views[index] = picture
    return views


def _compare_pictures(pictures: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the correlations of pairs of pictures, and those with the second one mirrored, float [n] each."""
    direct, mirrored = np.empty(len(first)), np.empty(len(first))
    for start in range(0, len(first), PAIRS_PER_STEP):
        step = slice(start, start + PAIRS_PER_STEP)
        views, others = pictures[first[step]], pictures[second[step]]
        direct[step], mirrored[step] = correlate(views, others), correlate(views, others[..., ::-1])
    return direct, mirrored


def _correlate_crops(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the correlations of each first image with the crops of the second, and reversely: [n, 2 * crops]."""
    first, second = _normalize(first), _normalize(second)
    return np.concatenate([(first[:, :1] * second).sum((2, 3)), (first * second[:, :1]).sum((2, 3))], axis=1)


def _normalize(pictures: np.ndarray) -> np.ndarray:
    """Scale pictures [..., H, W] to a mean of 0 and a norm of 1; uniform ones become zeros."""
    centered = pictures - pictures.mean((-2, -1), keepdims=True)
    return centered / np.maximum(np.sqrt((centered**2).sum((-2, -1), keepdims=True)), MIN_NORM)


def _blur(pictures: np.ndarray) -> np.ndarray:
    """Blur pictures [..., H, W] along both axes."""
    return _blur_last_axis(_blur_last_axis(pictures).swapaxes(-1, -2)).swapaxes(-1, -2)


def _blur_last_axis(pixels: np.ndarray) -> np.ndarray:
    reach, side = len(BLUR) // 2, pixels.shape[-1]
    padded = np.pad(pixels, [(0, 0)] * (pixels.ndim - 1) + [(reach, reach)], mode="edge")
    return sum(weight * padded[..., offset : offset + side] for offset, weight in enumerate(BLUR))
