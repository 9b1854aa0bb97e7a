"""Photographs with fixations -> some to train on and some to validate on; copies of one picture stay together."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from common.errors import UserError, describe_error
from common.fixations.data import FixatedImage

SIDE = 16  # of the thumbnails that tell whether two files show the same picture
TOLERANCE = 20  # grey levels: encoding and scaling a picture anew make up to 15, the most alike of 1,298 others 68
CHUNK = 10_000  # pairs of thumbnails compared at once


def split_images(
    images: Sequence[FixatedImage], validation: int | float, seed: int
) -> tuple[list[FixatedImage], list[FixatedImage]]:
    """Divide by image into (train, validation), each sorted by name; whatever the order of `images`.

    `validation` is a number of images, or as a float a fraction of them. Files that show the same picture (the same
    name, or thumbnails alike, as OSIE's 1279.jpg and 1374.jpg) stay together; where they do not fit, validation gets
    fewer. An image's side hangs on the seed and its name, so that a data set that grows keeps most of its division.
    Raises UserError where a side would be empty, or an image cannot be read.
    """
    fraction = isinstance(validation, float)
    if not 0 < validation < (1 if fraction else len(images)):
        raise _cannot_divide(validation, images)
    wanted = round(validation * len(images)) if fraction else validation
    groups = duplicate_groups(images)
    groups.sort(key=lambda group: hashlib.sha256(f"{seed} {group[0].name}".encode()).digest())
    train: list[FixatedImage] = []
    chosen: list[FixatedImage] = []
    for group in groups:
        (chosen if len(chosen) + len(group) <= wanted else train).extend(group)
    if not train or not chosen:
        raise _cannot_divide(validation, images)
    return sorted(train, key=_name), sorted(chosen, key=_name)


def duplicate_groups(images: Sequence[FixatedImage]) -> list[list[FixatedImage]]:
    """All images, those that show the same picture in one group; sorted by name. Reads every image, at an eighth."""
    from scipy.sparse import coo_array  # with the tree below, a quarter of a second to import
    from scipy.sparse.csgraph import connected_components

    if not images:
        return []
    ordered = sorted(images, key=_name)
    with ThreadPoolExecutor() as pool:
        thumbnails = np.stack(list(pool.map(thumbnail, ordered)))
    same_name = [(i, i + 1) for i in range(len(ordered) - 1) if ordered[i].name == ordered[i + 1].name]
    pairs = np.concatenate([_alike(thumbnails), np.array(same_name, np.int64).reshape(-1, 2)])
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(ordered), len(ordered)))
    groups: dict[int, list[FixatedImage]] = defaultdict(list)
    for image, label in zip(ordered, connected_components(links, directed=False)[1], strict=True):
        groups[int(label)].append(image)
    return list(groups.values())


def thumbnail(image: FixatedImage) -> np.ndarray:
    """The whole picture in 16 x 16 pixels, int16 [16, 16, 3]. Raises UserError."""
    try:
        with Image.open(image.path) as picture:
            picture.draft("RGB", (4 * SIDE, 4 * SIDE))  # a JPEG is decoded at an eighth of its size at best
            small = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow raises many kinds on hostile bytes
        raise UserError(f"{image.path}: the image cannot be read: {describe_error(error)}") from None
    return np.asarray(small, np.int16)


def _alike(thumbnails: np.ndarray) -> np.ndarray:
    """Pairs [n, 2] of thumbnails that differ by at most TOLERANCE everywhere.

    Means over quarters differ by no more than their pixels do, so they tell in 12 dimensions which are worth comparing.
    """
    from scipy.spatial import cKDTree

    half = SIDE // 2
    quarters = thumbnails.reshape(-1, 2, half, 2, half, 3).mean(axis=(2, 4)).reshape(len(thumbnails), -1)
    near = cKDTree(quarters).query_pairs(TOLERANCE, p=np.inf, output_type="ndarray")
    chunks = [near[start : start + CHUNK] for start in range(0, len(near), CHUNK)]
    alike = [
        chunk[np.abs(thumbnails[chunk[:, 0]] - thumbnails[chunk[:, 1]]).max(axis=(1, 2, 3)) <= TOLERANCE]
        for chunk in chunks
    ]
    return np.concatenate([np.zeros((0, 2), np.int64), *alike])


def _cannot_divide(validation: float, images: Sequence[FixatedImage]) -> UserError:
    return UserError(
        f"validation = {validation}: expected a number of images, or a fraction below 1, that leaves some of the "
        f"{len(images)} images on either side"
    )


def _name(image: FixatedImage) -> tuple[str, str]:
    return image.name, str(image.path)
