"""A teacher looks at image after image, and its maps are scored."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from common.errors import UserError, describe_error
from common.fixations import FixatedImage
from common.parallel import in_order
from labeler.teacher.evaluation.image_scores import ImageScores, score_image
from labeler.teacher.model import resize_to_input
from labeler.teacher.weights import Predictor


def score_images(
    teacher: Predictor, images: Iterable[FixatedImage], data: Sequence[FixatedImage], device: torch.device, seed: int
) -> Iterator[ImageScores]:
    """Score the images, in their order; `data` is the whole data set that they are of.

    The teacher looks at one image at a time, in the caller's thread, while others score what it has seen; memory is
    bounded by the images between the two. Sets PyTorch to one thread an operation.
    Raises UserError for an image that cannot be read, and for a map that holds NaN.
    """
    threads = os.cpu_count() or 1
    torch.set_num_threads(1)  # maps are small: images side by side make better use of the cores
    seen = ((image, predict_map(teacher, image, device)) for image in images)
    with ThreadPoolExecutor(threads) as pool:
        yield from in_order(pool, lambda pair: score_image(*pair, data, seed), seen, ahead=2 * threads)


def predict_map(teacher: Predictor, image: FixatedImage, device: torch.device) -> Tensor:
    """The teacher's map of a photograph, [h, w] of whatever size it makes.

    Values below 0 become 0, as in the maps that the labelling job stores. Raises UserError, which names the image,
    where the photograph cannot be read, the teacher fails on it, or its map holds NaN or infinity.
    """
    picture = resize_to_input(image.pixels())[None].to(device).float() / 255
    try:
        with torch.inference_mode():
            predicted = teacher.predict(picture)[0][0]
    except Exception as error:  # a teacher may be anyone's
        raise UserError(
            f"{image.path}: the teacher fails on it: {type(error).__name__}: {describe_error(error)}"
        ) from None
    if not predicted.isfinite().all():
        raise UserError(f"{image.path}: the teacher's map of it holds NaN or infinity")
    return predicted.clamp(min=0)
