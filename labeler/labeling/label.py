"""Labels of a batch of images: run the teacher, then turn its maps into stored attention maps and gaze points."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import ImageFailure, Reason
from common.gaze import GAZE_GRID
from common.images.orientation import map_to_stored, points_to_stored, to_upright
from common.saliency import resize_maps
from labeler.teacher.model import TeacherModel, resize_to_input


class Maps(NamedTuple):
    """The teacher's maps of a batch, on its device.

    `stored` is uint8 [B, S, S], as in the shard but upright; `grid` is float32 [B, 120, 160], for gaze points;
    `maxima` is float32 [B], the maximum of each map before the map was divided by it.
    """

    stored: Tensor
    grid: Tensor
    maxima: Tensor


class Label(NamedTuple):
    """The label of one image, in the frame of its stored pixels.

    `attention` is uint8 [S, S]; `gaze` is float32 [n, 3] of x, y and strength; `map_max` is the maximum of the map that
    the teacher predicted; `phash` is the perceptual hash of the upright image in hexadecimal, None without one.
    """

    attention: np.ndarray
    gaze: np.ndarray
    map_max: float
    phash: str | None


def to_teacher_input(pixels: Tensor, orientation: int) -> Tensor:
    """Turn stored pixels, uint8 [3, H, W], upright and stretch them to the teacher's input, uint8 [3, 480, 640]."""
    return resize_to_input(to_upright(pixels, orientation).contiguous())


def predict_maps(teacher: TeacherModel, images: Tensor, map_size: int) -> Maps:
    """Run the teacher on a batch of inputs [B, 3, 480, 640] with values from 0 to 255, uint8 or float32.

    The inputs are on the teacher's device. `map_size` is the side S of the stored maps.
    """
    with torch.inference_mode():
        maps, maxima = teacher.predict(images.float() / 255)
        stored = resize_maps(maps, (map_size, map_size))
        stored = stored / stored.amax((1, 2), keepdim=True)
        stored = (stored * 255).round().nan_to_num(0).clamp(0, 255).to(torch.uint8)
        return Maps(stored, resize_maps(maps, GAZE_GRID), maxima)


def make_label(
    stored_map: np.ndarray,
    maximum: float,
    find_points: Callable[[], np.ndarray],
    orientation: int,
    phash: str | None = None,
) -> Label:
    """Turn an upright map and gaze points into the label of an image whose stored pixels have an EXIF orientation.

    Args:
        stored_map: uint8 [S, S].
        maximum: maximum of the map that the teacher predicted.
        find_points: returns the gaze points, float32 [n, 3], or raises ImageFailure.
        orientation: EXIF orientation, 1 to 8.
        phash: perceptual hash of the image.

    Raises:
        ImageFailure: constant_map, non_finite_map.
    """
    if not np.isfinite(maximum):
        raise ImageFailure(Reason.NON_FINITE_MAP, "the map holds NaN or infinity")
    points = points_to_stored(find_points(), orientation)
    return Label(map_to_stored(stored_map, orientation), points, float(f"{maximum:.6g}"), phash)
