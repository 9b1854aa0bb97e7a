"""Labels of a batch of images: run the teacher, then turn its maps into stored attention maps and gaze points."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import ImageFailure, Reason
from common.orientation import map_to_stored, points_to_stored, to_upright
from labeler.labeling.gaze import gaze_points
from labeler.teacher.model import INPUT_SIZE, TeacherModel, resize_to_input

# Size of the maps from which gaze points are extracted. The teacher's finest saliency branch has stride 8 (60 x 80), so
# a grid of twice that size loses nothing.
GAZE_GRID = (120, 160)
GAZE_SIGMA = 19 * GAZE_GRID[0] / INPUT_SIZE[0]  # SALICON blurs fixations with 19 pixels at 480 x 640


class Maps(NamedTuple):
    """The teacher's maps of a batch.

    `stored` is uint8 [B, S, S], as in the shard but upright; `grid` is float32 [B, 120, 160], for gaze points;
    `maxima` is float32 [B], the maximum of each map before the map was divided by it.
    """

    stored: np.ndarray
    grid: np.ndarray
    maxima: np.ndarray


class Label(NamedTuple):
    """The label of one image, in the frame of its stored pixels.

    `attention` is uint8 [S, S]; `gaze` is float32 [n, 3] of x, y and strength; `map_max` is the maximum of the map that
    the teacher predicted.
    """

    attention: np.ndarray
    gaze: np.ndarray
    map_max: float


def to_teacher_input(pixels: Tensor, orientation: int) -> Tensor:
    """Turn stored pixels, uint8 [3, H, W], upright and stretch them to the teacher's input, uint8 [3, 480, 640]."""
    return resize_to_input(to_upright(pixels, orientation).contiguous())


def predict_maps(teacher: TeacherModel, images: Tensor, map_size: int, device: torch.device) -> Maps:
    """Run the teacher on a batch of inputs, uint8 [B, 3, 480, 640]. `map_size` is the side S of the stored maps."""
    with torch.inference_mode():
        maps, maxima = teacher.predict(images.to(device, non_blocking=True).float() / 255)
        stored = _resize(maps, (map_size, map_size))
        stored = stored / stored.amax((1, 2), keepdim=True)
        stored = (stored * 255).round().nan_to_num(0).clamp(0, 255).to(torch.uint8)
        grid = _resize(maps, GAZE_GRID)
    return Maps(stored.cpu().numpy(), grid.cpu().numpy(), maxima.cpu().numpy())


def label_image(maps: Maps, index: int, orientation: int, threshold: float, max_points: int) -> Label:
    """Label the image at `index` of a batch, whose stored pixels have the given EXIF orientation.

    `threshold` and `max_points` are those of `gaze_points`. Raises ImageFailure: constant_map, non_finite_map.
    """
    map_max = float(maps.maxima[index])
    if not np.isfinite(map_max):
        raise ImageFailure(Reason.NON_FINITE_MAP, "the map holds NaN or infinity")
    points = gaze_points(maps.grid[index], GAZE_SIGMA, threshold, max_points)
    attention = map_to_stored(maps.stored[index], orientation)
    return Label(attention, points_to_stored(points, orientation), float(f"{map_max:.6g}"))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]
