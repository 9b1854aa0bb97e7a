import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.gaze import gaze_points
from common.images.orientation import map_to_stored, points_to_stored, to_upright
from tests.support.data.pictures import photograph, rotated_jpeg

ORIENTATIONS = range(1, 9)
every_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS)


def stored_pixels(width: int = 9, height: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.array(photograph(width, height))).permute(2, 0, 1)


def upright_map(attention: np.ndarray, orientation: int) -> np.ndarray:
    return to_upright(torch.from_numpy(attention), orientation).numpy()


@every_orientation
def test_to_upright_equals_pillows_exif_transpose(orientation: int) -> None:
    image = Image.open(io.BytesIO(rotated_jpeg(orientation)))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    expected = np.asarray(ImageOps.exif_transpose(image))
    assert (to_upright(pixels, orientation).permute(1, 2, 0).numpy() == expected).all()


def test_the_eight_orientations_give_eight_different_images() -> None:
    images = [to_upright(stored_pixels(7, 7), orientation).numpy().tobytes() for orientation in ORIENTATIONS]
    assert len(set(images)) == 8


@every_orientation
def test_a_batch_is_turned_like_its_images(orientation: int) -> None:
    batch = torch.stack([stored_pixels(), stored_pixels() + 1])
    assert torch.equal(to_upright(batch, orientation)[1], to_upright(batch[1], orientation))


@every_orientation
def test_map_to_stored_inverts_to_upright(orientation: int) -> None:
    attention = np.random.default_rng(0).random((5, 9), dtype=np.float32)
    turned_back = map_to_stored(upright_map(attention, orientation), orientation)
    assert (turned_back == attention).all()
    assert turned_back.flags.c_contiguous


@every_orientation
def test_a_point_converted_to_stored_lies_on_the_same_pixel_of_the_stored_map(orientation: int) -> None:
    attention = np.random.default_rng(1).random((12, 20), dtype=np.float32)
    points = gaze_points(attention, sigma=0.8)
    assert len(points) > 10
    stored_map, stored_points = map_to_stored(attention, orientation), points_to_stored(points, orientation)
    assert stored_points.dtype == np.float32
    assert (stored_points[:, 2] == points[:, 2]).all()
    for (x, y, _), (stored_x, stored_y, _) in zip(points, stored_points, strict=True):
        height, width = stored_map.shape
        stored_row, stored_column = round(stored_y * height - 0.5), round(stored_x * width - 0.5)
        assert stored_map[stored_row, stored_column] == attention[round(y * 12 - 0.5), round(x * 20 - 0.5)]


@every_orientation
def test_the_first_point_lies_on_the_brightest_stored_pixel(orientation: int) -> None:
    stored = np.zeros((24, 40), np.float32)
    stored[3, 30] = 1
    points = points_to_stored(gaze_points(upright_map(stored, orientation), sigma=1), orientation)
    assert points == pytest.approx(np.array([[30.5 / 40, 3.5 / 24, 1]]), abs=1e-6)


@every_orientation
def test_points_to_stored_accepts_no_points(orientation: int) -> None:
    assert points_to_stored(np.zeros((0, 3), np.float32), orientation).shape == (0, 3)
