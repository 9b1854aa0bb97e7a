"""A batch of pictures -> what the data set stores of the teacher's maps."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import ImageFailure, Reason
from common.orientation import map_to_stored, points_to_stored, to_upright
from labeler.labeling.gaze import gaze_points
from labeler.teacher.model import INPUT_SIZE, resize_to_input
from labeler.teacher.weights import Predictor

GAZE_GRID = (120, 160)  # the maps are smooth (their finest branch has stride 8), so this grid loses nothing
GAZE_SIGMA = 19 * GAZE_GRID[0] / INPUT_SIZE[0]  # SALICON's blur: 19 px at 480 x 640


class Maps(NamedTuple):
    """A batch's maps: `stored` uint8 [B, S, S]; `grid` float32 [B, 120, 160] for gaze points; `maxima` [B]."""

    stored: np.ndarray
    grid: np.ndarray
    maxima: np.ndarray


class Label(NamedTuple):
    """One image's label, in the frame of its stored pixels: uint8 [S, S], float32 [n, 3], the map's own maximum."""

    attention: np.ndarray
    gaze: np.ndarray
    map_max: float


def to_teacher_input(pixels: Tensor, orientation: int) -> Tensor:
    """Stored pixels uint8 [3, H, W] -> the whole picture, upright, as the teacher sees it: uint8 [3, 480, 640]."""
    return resize_to_input(to_upright(pixels, orientation).contiguous())


def predict_maps(teacher: Predictor, pictures: Tensor, map_size: int, device: torch.device) -> Maps:
    """Run the teacher on uint8 [B, 3, 480, 640]."""
    with torch.inference_mode():
        maps, maxima = teacher.predict(pictures.to(device, non_blocking=True).float() / 255)
        stored = _resize(maps, (map_size, map_size))
        stored = stored / stored.amax((1, 2), keepdim=True)
        stored = (stored * 255).round().nan_to_num(0).clamp(0, 255).to(torch.uint8)
        grid = _resize(maps, GAZE_GRID)
    return Maps(stored.cpu().numpy(), grid.cpu().numpy(), maxima.cpu().numpy())


def label_image(maps: Maps, index: int, orientation: int, threshold: float, max_points: int) -> Label:
    """One image's label out of its batch. Raises ImageFailure: constant_map, non_finite_map."""
    map_max = float(maps.maxima[index])
    if not np.isfinite(map_max):
        raise ImageFailure(Reason.NON_FINITE_MAP, "the map holds NaN or infinity")
    points = gaze_points(maps.grid[index], GAZE_SIGMA, threshold, max_points)
    attention = map_to_stored(maps.stored[index], orientation)
    return Label(attention, points_to_stored(points, orientation), float(f"{map_max:.6g}"))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]
