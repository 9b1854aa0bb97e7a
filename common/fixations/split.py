"""Division of fixated images into training and validation, with duplicates of an image on the same side."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from common.errors import UserError, describe_error
from common.fixations.data import FixatedImage
from common.text import pluralize

THUMBNAIL_SIDE = 16
# Largest difference between thumbnails of duplicates, in gray levels. Encoding or scaling an image again changes its
# thumbnail by up to 15; among 1,298 different images, the most similar two differ by 68.
TOLERANCE = 20
PAIRS_PER_CHUNK = 10_000  # pairs of thumbnails compared at once, which bounds the memory


def split_images(
    images: Sequence[FixatedImage], validation: int | float, seed: int
) -> tuple[list[FixatedImage], list[FixatedImage]]:
    """Divide images into (training, validation), each sorted by name; the order of `images` does not matter.

    `validation` is a number of images or, as a float, a fraction of them. Duplicates (images with the same name or
    with nearly equal thumbnails, such as OSIE's 1279.jpg and 1374.jpg) stay together; if a group of them does not fit,
    validation gets fewer images. The side of an image depends on the seed and its name, so that most images stay on
    their side when the data set grows. Raises UserError if a side would be empty, or if an image cannot be read.
    """
    is_fraction = isinstance(validation, float)
    if not 0 < validation < (1 if is_fraction else len(images)):
        raise _cannot_divide(validation, images)
    wanted = round(validation * len(images)) if is_fraction else validation
    groups = group_duplicates(images)
    groups.sort(key=lambda group: hashlib.sha256(f"{seed} {group[0].name}".encode()).digest())
    train: list[FixatedImage] = []
    held_out: list[FixatedImage] = []
    for group in groups:
        (held_out if len(held_out) + len(group) <= wanted else train).extend(group)
    if not train or not held_out:
        raise _cannot_divide(validation, images)
    return sorted(train, key=_name_and_path), sorted(held_out, key=_name_and_path)


def group_duplicates(images: Sequence[FixatedImage]) -> list[list[FixatedImage]]:
    """Group images so that duplicates share a group; groups and their images are sorted by name.

    Reads every image, JPEGs at a reduced size. Raises UserError if one cannot be read.
    """
    from scipy.sparse import coo_array  # scipy.sparse and scipy.spatial take a quarter of a second to import
    from scipy.sparse.csgraph import connected_components

    if not images:
        return []
    ordered = sorted(images, key=_name_and_path)
    with ThreadPoolExecutor() as pool:
        thumbnails = np.stack(list(pool.map(_load_thumbnail, ordered)))
    same_name = [(i, i + 1) for i in range(len(ordered) - 1) if ordered[i].name == ordered[i + 1].name]
    pairs = np.concatenate([_find_similar_pairs(thumbnails), np.array(same_name, np.int64).reshape(-1, 2)])
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(ordered), len(ordered)))
    groups: dict[int, list[FixatedImage]] = defaultdict(list)
    for image, label in zip(ordered, connected_components(links, directed=False)[1], strict=True):
        groups[int(label)].append(image)
    return list(groups.values())


def _load_thumbnail(image: FixatedImage) -> np.ndarray:
    """Return the image scaled to 16 x 16 pixels, int16 [16, 16, 3]. Raises UserError if it cannot be read."""
    try:
        with Image.open(image.path) as original:
            # faster: decodes a JPEG at a reduced size, down to an eighth
            original.draft("RGB", (4 * THUMBNAIL_SIDE, 4 * THUMBNAIL_SIDE))
            small = original.convert("RGB").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow raises exceptions of many types for malformed files
        raise UserError(f"{image.path}: the image cannot be read: {describe_error(error)}") from None
    return np.asarray(small, np.int16)


def _find_similar_pairs(thumbnails: np.ndarray) -> np.ndarray:
    """Return the pairs of indices, [n, 2], of thumbnails whose pixels all differ by at most TOLERANCE.

    Candidates are found by the means over the four quadrants (12 numbers per thumbnail), which differ by no more than
    the pixels do.
    """
    from scipy.spatial import cKDTree

    half = THUMBNAIL_SIDE // 2
    quadrants = thumbnails.reshape(-1, 2, half, 2, half, 3).mean(axis=(2, 4)).reshape(len(thumbnails), -1)
    candidates = cKDTree(quadrants).query_pairs(TOLERANCE, p=np.inf, output_type="ndarray")
    chunks = [candidates[start : start + PAIRS_PER_CHUNK] for start in range(0, len(candidates), PAIRS_PER_CHUNK)]
    similar = [
        chunk[np.abs(thumbnails[chunk[:, 0]] - thumbnails[chunk[:, 1]]).max(axis=(1, 2, 3)) <= TOLERANCE]
        for chunk in chunks
    ]
    return np.concatenate([np.zeros((0, 2), np.int64), *similar])


def _cannot_divide(validation: float, images: Sequence[FixatedImage]) -> UserError:
    return UserError(
        f"validation = {validation}: expected a number of images, or a fraction below 1, that leaves some of the "
        f"{pluralize(len(images), 'image')} for training and some for validation"
    )


def _name_and_path(image: FixatedImage) -> tuple[str, str]:
    return image.name, str(image.path)
