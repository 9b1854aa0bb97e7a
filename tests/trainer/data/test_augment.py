import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as theirs

from trainer.data.augment import Augmentation, augment, draw_augmentation, gaussian_blur, kernel_size, pack_parameters

NOTHING = Augmentation(False, 1.0, 1.0, 1.0, 0.0, (0, 1, 2, 3), False, 0.0)
OPERATIONS = (theirs.adjust_brightness, theirs.adjust_contrast, theirs.adjust_saturation, theirs.adjust_hue)


def pictures(n=4, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def expected(image, augmentation):
    """The same view by torchvision's functions, one image at a time."""
    view = image.float() / 255
    if augmentation.flip:
        view = theirs.horizontal_flip(view)
    factors = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    for operation in augmentation.order:
        view = OPERATIONS[operation](view, factors[operation])
    if augmentation.grey:
        view = theirs.rgb_to_grayscale(view, 3)
    if augmentation.sigma:
        view = theirs.gaussian_blur(view, [kernel_size(image.shape[-1])] * 2, [augmentation.sigma] * 2)
    return view


def test_each_image_gets_its_own_parameters_as_torchvision_applies_them():
    generator = np.random.default_rng(0)
    images = pictures(64)
    drawn = [draw_augmentation(generator) for _ in images]
    views = augment(images, torch.tensor([pack_parameters(one) for one in drawn]))
    wanted = torch.stack([expected(image, one) for image, one in zip(images, drawn, strict=True)])
    torch.testing.assert_close(views, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shade", [0, 255, 77])
def test_grey_black_and_white_pictures_survive_every_operation(shade):
    images = torch.full((8, 3, 16, 16), shade, dtype=torch.uint8)
    drawn = [draw_augmentation(np.random.default_rng(seed)) for seed in range(8)]
    views = augment(images, torch.tensor([pack_parameters(one) for one in drawn]))
    wanted = torch.stack([expected(image, one) for image, one in zip(images, drawn, strict=True)])
    torch.testing.assert_close(views, wanted, rtol=0, atol=2e-5)


def test_nothing_drawn_changes_nothing():
    images = pictures()
    torch.testing.assert_close(augment(images, torch.tensor([pack_parameters(NOTHING)] * 4)), images.float() / 255)


def test_views_do_not_depend_on_their_neighbours():
    images = pictures(6)
    parameters = torch.tensor([pack_parameters(draw_augmentation(np.random.default_rng(seed))) for seed in range(6)])
    together = augment(images, parameters)
    alone = torch.cat([augment(images[[row]], parameters[[row]]) for row in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_the_same_generator_draws_the_same():
    assert draw_augmentation(np.random.default_rng([1, 2, 3])) == draw_augmentation(np.random.default_rng([1, 2, 3]))


def test_probabilities_and_ranges_are_simclrs():
    generator = np.random.default_rng(0)
    drawn = [draw_augmentation(generator) for _ in range(4000)]
    jittered = [one for one in drawn if (one.brightness, one.hue) != (1.0, 0.0)]
    blurred_ones = [one.sigma for one in drawn if one.sigma]
    for share, probability in (
        (np.mean([one.flip for one in drawn]), 0.5),
        (len(jittered) / 4000, 0.8),
        (np.mean([one.grey for one in drawn]), 0.2),
        (len(blurred_ones) / 4000, 0.5),
    ):
        assert share == pytest.approx(probability, abs=0.03)
    for values, low, high in (
        ([one.brightness for one in jittered], 0.2, 1.8),
        ([one.contrast for one in jittered], 0.2, 1.8),
        ([one.saturation for one in jittered], 0.2, 1.8),
        ([one.hue for one in jittered], -0.2, 0.2),
        (blurred_ones, 0.1, 2.0),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.001
    orders = {one.order for one in drawn}
    assert len(orders) == 24


def test_the_distribution_of_views_is_torchvisions():
    """Means, spreads and colourfulness of many views of one picture, by a two-sample test."""
    image = pictures(1, 24, seed=3)
    chain = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel_size(24), (0.1, 2.0))], 0.5),
        ]
    )
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    number = 1500
    parameters = torch.tensor([pack_parameters(draw_augmentation(generator)) for _ in range(number)])
    ours = augment(image.expand(number, -1, -1, -1), parameters)
    others = torch.stack([chain(image[0]) for _ in range(number)])
    for statistic in (
        lambda views: views.mean((1, 2, 3)),
        lambda views: views.std((1, 2, 3)),
        lambda views: (views.amax(1) - views.amin(1)).mean((1, 2)),
        lambda views: (views[:, :, :, 0] - views[:, :, :, -1]).mean((1, 2)),
        lambda views: views.diff(dim=3).abs().mean((1, 2, 3)),
        lambda views: (views[:, 0] - views[:, 2]).mean((1, 2)),
    ):
        rounded = (statistic(views).double().numpy().round(3) for views in (ours, others))  # a fifth are not jittered
        assert stats.ks_2samp(*rounded).pvalue > 0.001


def test_the_kernel_is_about_a_tenth_of_the_side():
    assert [kernel_size(side) for side in (32, 64, 96, 224)] == [3, 7, 9, 23]


def test_a_blur_of_none_returns_the_same_views():
    views = torch.rand(2, 3, 16, 16)
    assert gaussian_blur(views, torch.zeros(2)) is views
