"""EXIF orientations: turn images, maps and points upright, or back into the frame of the stored pixels.

The stored pixels become upright by an optional transposition, followed by optional flips along x and y.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor  # importing torch takes seconds, and pages do not need it


class _Turn(NamedTuple):
    transpose: bool
    flip_x: bool
    flip_y: bool


TURNS = {  # by EXIF orientation: the transposition and flips that turn the stored pixels upright
    1: _Turn(False, False, False),
    2: _Turn(False, True, False),
    3: _Turn(False, True, True),
    4: _Turn(False, False, True),
    5: _Turn(True, False, False),
    6: _Turn(True, True, False),
    7: _Turn(True, True, True),
    8: _Turn(True, False, True),
}


def to_upright(pixels: "Tensor", orientation: int) -> "Tensor":
    """Turn stored pixels [..., H, W] upright. The result may be a view."""
    turn = TURNS[orientation]
    if turn.transpose:
        pixels = pixels.transpose(-1, -2)
    flips = [axis for axis, flip in ((-1, turn.flip_x), (-2, turn.flip_y)) if flip]
    return pixels.flip(flips) if flips else pixels


def to_upright_image(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a Pillow image of stored pixels upright."""
    turn = TURNS[orientation]
    steps = (
        (turn.transpose, Image.Transpose.TRANSPOSE),
        (turn.flip_x, Image.Transpose.FLIP_LEFT_RIGHT),
        (turn.flip_y, Image.Transpose.FLIP_TOP_BOTTOM),
    )
    for needed, step in steps:
        image = image.transpose(step) if needed else image
    return image


def to_upright_point(x: float, y: float, orientation: int) -> tuple[float, float]:
    """Convert a point, x and y in [0, 1], from the frame of the stored pixels to that of the upright image."""
    turn = TURNS[orientation]
    x, y = (y, x) if turn.transpose else (x, y)
    return 1 - x if turn.flip_x else x, 1 - y if turn.flip_y else y


def map_to_stored(attention: np.ndarray, orientation: int) -> np.ndarray:
    """Turn a map [H, W] of the upright image into the frame of the stored pixels. The result is contiguous."""
    turn = TURNS[orientation]
    attention = attention[:: -1 if turn.flip_y else 1, :: -1 if turn.flip_x else 1]
    return np.ascontiguousarray(attention.T if turn.transpose else attention)


def points_to_stored(points: np.ndarray, orientation: int) -> np.ndarray:
    """Convert points [n, 3] (x and y in [0, 1], strength) from the upright image's frame to the stored pixels'."""
    turn = TURNS[orientation]
    x = 1 - points[:, 0] if turn.flip_x else points[:, 0]
    y = 1 - points[:, 1] if turn.flip_y else points[:, 1]
    return np.stack([y, x, points[:, 2]] if turn.transpose else [x, y, points[:, 2]], axis=1)
