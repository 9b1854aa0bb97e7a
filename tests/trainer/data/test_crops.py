import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from trainer.data.crops import Crop, center_crop, crop_and_resize, draw_crop, resize_frame


@pytest.mark.parametrize(("height", "width"), [(300, 400), (128, 128), (60, 400), (400, 60)])
def test_distribution_of_crops_is_that_of_torchvision(height, width):
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    image = torch.zeros(3, height, width)
    theirs = [v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(8), [image]) for _ in range(3000)]
    ours = [draw_crop(generator, height, width) for _ in range(3000)]
    for name in ("top", "left", "height", "width"):
        values = [getattr(crop, name) for crop in ours], [crop[name] for crop in theirs]
        assert stats.ks_2samp(*values).pvalue > 0.001, name


def test_crop_of_a_long_strip_is_its_middle():
    assert draw_crop(np.random.default_rng(0), 10, 1000) == Crop(0, 493, 10, 13)
    assert draw_crop(np.random.default_rng(0), 1000, 10) == Crop(493, 0, 13, 10)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (3, 2)])
def test_tiny_images_can_be_cropped(height, width):
    crop = draw_crop(np.random.default_rng(0), height, width)
    assert crop_and_resize(torch.zeros(3, height, width, dtype=torch.uint8), crop, 32).shape == (3, 32, 32)


def test_resized_crop_equals_that_of_torchvision():
    pixels = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    crop = Crop(7, 11, 50, 60)
    expected = v2.functional.resized_crop(pixels, 7, 11, 50, 60, [32, 32], v2.InterpolationMode.BICUBIC, antialias=True)
    assert (crop_and_resize(pixels, crop, 32).int() - expected.int()).abs().max() <= 1


def test_center_crop_and_whole_frame():
    pixels = torch.zeros(3, 80, 160, dtype=torch.uint8)
    pixels[:, 5:75, 45:115] = 255
    assert (center_crop(pixels, 32) == 255).all()  # the white square has a side of 70 = 0.875 * 80 pixels
    assert resize_frame(pixels, 32).float().mean() == pytest.approx(255 * 70 * 70 / (80 * 160), abs=2)


@pytest.mark.parametrize("min_area", [0.08, 0.5, 1.0])
def test_crops_have_at_least_the_given_area(min_area):
    generator = np.random.default_rng(0)
    areas = [
        crop.height * crop.width / 90_000 for crop in (draw_crop(generator, 300, 300, min_area) for _ in range(300))
    ]
    assert min_area - 0.01 <= min(areas) <= min_area + 0.1
    assert max(areas) <= 1
