import numpy as np
import pytest
import torch

from labeler.teacher.model import INPUT_SIZE
from labeler.teacher.training.views import WHOLE, View, adjust_colors, crop_pixels, crop_points, draw_view

PLAIN = (1.0, 1.0, 1.0)


def bright_spot(x, y, height=240, width=320):
    """A black picture with a bright square about a point in [0, 1]."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    row, column = int(y * height), int(x * width)
    pixels[:, max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4] = 255
    return pixels


@pytest.mark.parametrize("view", [WHOLE, View(0.2, 0.1, 0.6, 0.7, False, PLAIN), View(0.1, 0.3, 0.8, 0.5, True, PLAIN)])
def test_fixations_move_with_the_picture(view):
    point = np.array([[0.4, 0.6]])
    shown = crop_pixels(bright_spot(*point[0]), view).float().mean(0)
    assert shown.shape == INPUT_SIZE
    rows, columns = (shown > 128).nonzero().float().mean(0).tolist()
    expected = crop_points(point, view)[0] * (INPUT_SIZE[1], INPUT_SIZE[0])
    assert (columns, rows) == pytest.approx(tuple(expected), abs=4)


def test_fixations_outside_of_a_view_are_left_out():
    view = View(0.5, 0.0, 0.5, 1.0, False, PLAIN)
    points = crop_points(np.array([[0.2, 0.5], [0.75, 0.25], [0.49, 0.9]]), view)
    np.testing.assert_allclose(points, [[0.5, 0.25]])


def test_views_show_at_least_the_zoom_and_stay_within_the_frame():
    generator = np.random.default_rng(0)
    views = [draw_view(generator, 0.7, 0.2) for _ in range(500)]
    for view in views:
        assert 0.7 <= view.width <= 1
        assert 0.7 <= view.height <= 1
        assert 0 <= view.left <= 1 - view.width + 1e-9
        assert 0 <= view.top <= 1 - view.height + 1e-9
        assert all(0.8 <= factor <= 1.2 for factor in view.colours)
    assert 200 < sum(view.mirrored for view in views) < 300


def test_the_same_generator_draws_the_same_view():
    assert draw_view(np.random.default_rng(3), 0.5, 0.2) == draw_view(np.random.default_rng(3), 0.5, 0.2)


def test_colours_that_are_1_change_nothing():
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(adjust_colors(images, torch.ones(2, 3)), images)


def test_each_image_has_colours_of_its_own():
    images = torch.rand(2, 3, 8, 8)
    changed = adjust_colors(images, torch.tensor([[1.0, 1.0, 0.0], [0.5, 1.0, 1.0]]))
    assert changed[0].std(0).max() < 1e-6  # grey
    torch.testing.assert_close(changed[1], images[1] / 2)
