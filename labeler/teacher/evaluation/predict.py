"""The teacher's attention map of one image."""

import torch
from torch import Tensor

from common.errors import UserError, describe_error
from common.fixations import FixatedImage
from labeler.teacher.model import TeacherModel, resize_to_input


def predict_map(teacher: TeacherModel, image: FixatedImage, device: torch.device) -> Tensor:
    """Return the teacher's map of an image, [h, w] of the size that the teacher chooses, non-negative.

    Negative values become 0, as in the maps that a labeling job stores. Raises UserError with the path of the image if
    it cannot be read, if the teacher fails on it, or if the map holds NaN or infinity.
    """
    inputs = resize_to_input(image.pixels())[None].to(device).float() / 255
    try:
        with torch.inference_mode():
            attention = teacher.predict(inputs)[0][0]
    except Exception as error:  # a user's network may raise anything
        raise UserError(
            f"{image.path}: the teacher fails on this image: {type(error).__name__}: {describe_error(error)}"
        ) from None
    if not attention.isfinite().all():
        raise UserError(f"{image.path}: the teacher's map of this image holds NaN or infinity")
    return attention.clamp(min=0)
