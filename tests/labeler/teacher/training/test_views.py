import numpy as np
import pytest
import torch

from labeler.teacher.model import INPUT_SIZE
from labeler.teacher.training.views import FULL_VIEW, View, adjust_colors, crop_fixations, crop_pixels, draw_view

UNCHANGED_COLORS = (1.0, 1.0, 1.0)


def bright_spot(x, y, height=240, width=320):
    """Return a black image with a white square around a point in [0, 1]."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    row, column = int(y * height), int(x * width)
    pixels[:, max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4] = 255
    return pixels


@pytest.mark.parametrize(
    "view",
    [FULL_VIEW, View(0.2, 0.1, 0.6, 0.7, False, UNCHANGED_COLORS), View(0.1, 0.3, 0.8, 0.5, True, UNCHANGED_COLORS)],
)
def test_fixations_move_with_the_image(view):
    point = np.array([[0.4, 0.6]])
    cropped = crop_pixels(bright_spot(*point[0]), view).float().mean(0)
    assert cropped.shape == INPUT_SIZE
    rows, columns = (cropped > 128).nonzero().float().mean(0).tolist()
    expected = crop_fixations(point, view)[0] * (INPUT_SIZE[1], INPUT_SIZE[0])
    assert (columns, rows) == pytest.approx(tuple(expected), abs=4)


def test_fixations_outside_of_a_view_are_removed():
    view = View(0.5, 0.0, 0.5, 1.0, False, UNCHANGED_COLORS)
    fixations = crop_fixations(np.array([[0.2, 0.5], [0.75, 0.25], [0.49, 0.9]]), view)
    np.testing.assert_allclose(fixations, [[0.5, 0.25]])


def test_views_have_all_sizes_from_the_minimum_on_and_all_positions_within_the_frame():
    generator = np.random.default_rng(0)
    views = [draw_view(generator, 0.7, 0.2) for _ in range(500)]
    for low, high, *values in [
        (0.7, 1, *(view.width for view in views)),
        (0.7, 1, *(view.height for view in views)),
        (0, 1, *(view.left / (1 - view.width) for view in views)),
        (0, 1, *(view.top / (1 - view.height) for view in views)),
        *((0.8, 1.2, *factors) for factors in zip(*(view.color_factors for view in views), strict=True)),
    ]:
        margin = (high - low) / 20
        assert low - 1e-9 <= min(values) < low + margin
        assert high - margin < max(values) <= high + 1e-9
    assert 200 < sum(view.flipped for view in views) < 300


def test_equal_generators_draw_equal_views():
    assert draw_view(np.random.default_rng(3), 0.5, 0.2) == draw_view(np.random.default_rng(3), 0.5, 0.2)


def test_color_factors_of_1_change_nothing():
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(adjust_colors(images, torch.ones(2, 3)), images)


def test_each_image_has_its_own_color_factors():
    images = torch.rand(2, 3, 8, 8)
    changed = adjust_colors(images, torch.tensor([[1.0, 1.0, 0.0], [0.5, 1.0, 1.0]]))
    assert changed[0].std(0).max() < 1e-6  # gray
    torch.testing.assert_close(changed[1], images[1] / 2)
