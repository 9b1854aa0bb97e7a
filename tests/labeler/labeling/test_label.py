import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from common.errors import ImageFailure, Reason
from common.gaze import GAZE_GRID, GAZE_SIGMA, gaze_points
from common.images.orientation import to_upright
from labeler.labeling.label import Label, Maps, make_label, predict_maps, to_teacher_input
from labeler.teacher.weights import CustomTeacher
from tests.support.data.pictures import photograph


class Brightness(nn.Module):
    """Teacher whose map is the brightness of the image on a coarse grid."""

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images.mean(1), 8)


class ConstantOutput(nn.Module):
    """Teacher with the same map for every image."""

    def __init__(self, attention: Tensor) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, images: Tensor) -> Tensor:
        return self.attention.expand(len(images), -1, -1)


def pixels(width: int = 200, height: int = 150, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.array(photograph(width, height, seed))).permute(2, 0, 1)


def image_with_spot(x: float, y: float, width: int = 240, height: int = 180) -> Tensor:
    """A black image with one bright spot, uint8 [3, H, W]."""
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    distance = (rows - y * height) ** 2 + (columns - x * width) ** 2
    return (250 * torch.exp(-distance / (2 * 12.0**2))).round().to(torch.uint8).expand(3, -1, -1)


def label_image(maps: Maps, index: int, orientation: int, threshold: float, max_points: int) -> Label:
    stored, grid, maxima = (tensor.numpy() for tensor in maps)
    points = functools.partial(gaze_points, grid[index], GAZE_SIGMA, threshold, max_points)
    return make_label(stored[index], float(maxima[index]), points, orientation)


def label_images(module: nn.Module, images: list[Tensor], orientation: int = 1, map_size: int = 64) -> list[Label]:
    batch = torch.stack([to_teacher_input(image, orientation) for image in images])
    maps = predict_maps(CustomTeacher(module), batch, map_size)
    return [label_image(maps, index, orientation, 0.2, 200) for index in range(len(images))]


def failure_reason(attention: Tensor) -> Reason:
    with pytest.raises(ImageFailure) as failure:
        label_images(ConstantOutput(attention), [pixels()])
    return failure.value.reason


@pytest.mark.parametrize(("width", "height"), [(200, 150), (150, 200), (8, 8), (1000, 30), (640, 480)])
def test_teacher_input_is_the_whole_image_resized(width: int, height: int) -> None:
    resized = to_teacher_input(pixels(width, height), 1)
    expected = photograph(width, height).resize((640, 480), Image.Resampling.BICUBIC)  # antialiased too
    assert (resized.dtype, tuple(resized.shape)) == (torch.uint8, (3, 480, 640))
    assert np.abs(resized.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected)).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_teacher_input_is_upright(orientation: int) -> None:
    stored = pixels()
    assert torch.equal(to_teacher_input(stored, orientation), to_teacher_input(to_upright(stored, orientation), 1))


@pytest.mark.parametrize("map_size", [8, 64, 224, 500, 4096])
def test_stored_map_is_a_square_uint8_map_with_maximum_255(map_size: int) -> None:
    for label in label_images(Brightness(), [pixels(seed=seed) for seed in range(3)], map_size=map_size):
        assert label.attention.dtype == np.uint8
        assert label.attention.shape == (map_size, map_size)
        assert label.attention.max() == 255
        assert label.attention.min() < 255


def test_stored_map_is_the_teachers_map_divided_by_its_maximum() -> None:
    attention = Brightness()(to_teacher_input(pixels(), 1)[None].float() / 255)
    expected = F.interpolate(attention[:, None], (64, 64), mode="bilinear", antialias=True)[0, 0]
    [label] = label_images(Brightness(), [pixels()])
    assert np.abs(label.attention - (255 * expected / expected.max()).numpy()).max() <= 0.51
    assert label.map_max == pytest.approx(attention.max().item(), rel=1e-5)


def test_label_does_not_depend_on_the_other_images_of_the_batch() -> None:
    images = [pixels(seed=seed) for seed in range(4)]
    together = label_images(Brightness(), images)
    for image, label in zip(images, together, strict=True):
        [alone] = label_images(Brightness(), [image])
        assert np.abs(alone.attention.astype(int) - label.attention).max() <= 1
        assert alone.gaze == pytest.approx(label.gaze, abs=1e-4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("x", "y"), [(0.2, 0.3), (0.9, 0.1), (0.5, 0.75)])
def test_map_and_points_are_in_the_frame_of_the_stored_pixels(orientation: int, x: float, y: float) -> None:
    [label] = label_images(Brightness(), [image_with_spot(x, y)], orientation)
    row, column = np.unravel_index(label.attention.argmax(), label.attention.shape)
    assert ((column + 0.5) / 64, (row + 0.5) / 64) == pytest.approx((x, y), abs=0.03)
    assert label.gaze[0] == pytest.approx([x, y, 1], abs=0.03)


def test_points_lie_where_the_stored_map_is_bright() -> None:
    for label in label_images(Brightness(), [pixels(seed=seed) for seed in range(3)]):
        cells = (label.gaze[:, :2] * 64).astype(int)
        assert (label.attention[cells[:, 1], cells[:, 0]] >= 255 * label.gaze[:, 2] - 3).all()
        assert (label.gaze[:, 2] >= 0.2).all()
        assert label.gaze.dtype == np.float32


def test_threshold_and_max_points_are_applied() -> None:
    batch = torch.stack([to_teacher_input(pixels(), 1)])
    maps = predict_maps(CustomTeacher(Brightness()), batch, 64)
    assert len(label_image(maps, 0, 1, 0.2, 3).gaze) == 3
    assert (label_image(maps, 0, 1, 0.7, 200).gaze[:, 2] >= 0.7).all()


def test_gaze_grid_has_the_teachers_aspect_ratio_and_salicons_blur() -> None:
    assert GAZE_GRID == (120, 160)
    assert pytest.approx(19 * 160 / 640) == GAZE_SIGMA


@pytest.mark.parametrize("scale", [1e-6, 2e-5, 1, 1e6])
def test_scale_of_the_teachers_map_affects_only_the_recorded_maximum(scale: float) -> None:
    attention = torch.rand(1, 12, 16, generator=torch.Generator().manual_seed(0))
    [original], [scaled] = (label_images(ConstantOutput(attention * factor), [pixels()]) for factor in (1, scale))
    assert np.abs(original.attention.astype(int) - scaled.attention).max() <= 1
    assert original.gaze == pytest.approx(scaled.gaze, abs=1e-4)
    assert scaled.map_max == pytest.approx(attention.max().item() * scale, rel=1e-5)


def test_recorded_maximum_has_six_significant_digits() -> None:
    [label] = label_images(ConstantOutput(torch.rand(1, 12, 16) / 3), [pixels()])
    assert label.map_max == float(f"{label.map_max:.6g}")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("everywhere", [False, True])
def test_non_finite_map_raises_image_failure(value: float, everywhere: bool) -> None:
    attention = torch.rand(1, 12, 16)
    attention[:, :: 1 if everywhere else 7] = value
    assert failure_reason(attention) == Reason.NON_FINITE_MAP


def test_non_finite_map_does_not_affect_the_other_images_of_its_batch() -> None:
    attention = torch.rand(3, 12, 16)
    black = torch.zeros(3, 3, 480, 640, dtype=torch.uint8)
    maps = predict_maps(CustomTeacher(ConstantOutput(attention)), black, 64)
    attention[1] = torch.nan
    with_bad = predict_maps(CustomTeacher(ConstantOutput(attention)), black, 64)
    for index in (0, 2):
        expected, found = (label_image(batch, index, 1, 0.2, 200) for batch in (maps, with_bad))
        assert (expected.attention == found.attention).all()
    with pytest.raises(ImageFailure, match="NaN or infinity"):
        label_image(with_bad, 1, 1, 0.2, 200)


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.5, 1.0, -1.0])
def test_constant_map_raises_image_failure(value: float) -> None:
    assert failure_reason(torch.full((1, 12, 16), value)) == Reason.CONSTANT_MAP


def test_map_without_positive_values_raises_image_failure_and_is_not_inverted() -> None:
    assert failure_reason(torch.rand(1, 12, 16) - 2) == Reason.CONSTANT_MAP
