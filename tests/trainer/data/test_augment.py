import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as torchvision_functional

from trainer.data.augment import (
    SIMCLR_VIEWS,
    Augmentation,
    ViewSettings,
    augment,
    draw_augmentation,
    gaussian_blur,
    kernel_size,
    pack_parameters,
)

NEUTRAL = Augmentation(False, 1.0, 1.0, 1.0, 0.0, (0, 1, 2, 3), False, 0.0)
JITTER_OPERATIONS = (
    torchvision_functional.adjust_brightness,
    torchvision_functional.adjust_contrast,
    torchvision_functional.adjust_saturation,
    torchvision_functional.adjust_hue,
)


def random_images(n=4, side=32, seed=0):
    """Smooth color images, uint8 [n, 3, side, side]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8)


def augment_with_torchvision(image, augmentation):
    """Augment one image with torchvision's functions."""
    view = image.float() / 255
    if augmentation.flip:
        view = torchvision_functional.horizontal_flip(view)
    factors = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    for operation in augmentation.order:
        view = JITTER_OPERATIONS[operation](view, factors[operation])
    if augmentation.gray:
        view = torchvision_functional.rgb_to_grayscale(view, 3)
    if augmentation.sigma:
        view = torchvision_functional.gaussian_blur(view, [kernel_size(image.shape[-1])] * 2, [augmentation.sigma] * 2)
    return view


def test_each_image_is_augmented_with_its_own_parameters_as_by_torchvision():
    generator = np.random.default_rng(0)
    images = random_images(64)
    augmentations = [draw_augmentation(generator) for _ in images]
    views = augment(images, torch.tensor([pack_parameters(augmentation) for augmentation in augmentations]))
    pairs = zip(images, augmentations, strict=True)
    expected = torch.stack([augment_with_torchvision(image, augmentation) for image, augmentation in pairs])
    torch.testing.assert_close(views, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shade", [0, 255, 77])
def test_black_white_and_gray_images_are_augmented_as_by_torchvision(shade):
    images = torch.full((8, 3, 16, 16), shade, dtype=torch.uint8)
    augmentations = [draw_augmentation(np.random.default_rng(seed)) for seed in range(8)]
    views = augment(images, torch.tensor([pack_parameters(augmentation) for augmentation in augmentations]))
    pairs = zip(images, augmentations, strict=True)
    expected = torch.stack([augment_with_torchvision(image, augmentation) for image, augmentation in pairs])
    torch.testing.assert_close(views, expected, rtol=0, atol=2e-5)


def test_neutral_parameters_change_nothing():
    images = random_images()
    torch.testing.assert_close(augment(images, torch.tensor([pack_parameters(NEUTRAL)] * 4)), images.float() / 255)


def test_views_do_not_depend_on_other_images_of_the_batch():
    images = random_images(6)
    parameters = torch.tensor([pack_parameters(draw_augmentation(np.random.default_rng(seed))) for seed in range(6)])
    together = augment(images, parameters)
    alone = torch.cat([augment(images[[row]], parameters[[row]]) for row in range(6)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_same_seed_draws_same_parameters():
    assert draw_augmentation(np.random.default_rng([1, 2, 3])) == draw_augmentation(np.random.default_rng([1, 2, 3]))


def test_probabilities_and_ranges_are_those_of_simclr():
    generator = np.random.default_rng(0)
    augmentations = [draw_augmentation(generator) for _ in range(4000)]
    jittered = [drawn for drawn in augmentations if (drawn.brightness, drawn.hue) != (1.0, 0.0)]
    sigmas = [drawn.sigma for drawn in augmentations if drawn.sigma]
    for frequency, probability in (
        (np.mean([drawn.flip for drawn in augmentations]), 0.5),
        (len(jittered) / 4000, 0.8),
        (np.mean([drawn.gray for drawn in augmentations]), 0.2),
        (len(sigmas) / 4000, 0.5),
    ):
        assert frequency == pytest.approx(probability, abs=0.03)
    for values, low, high in (
        ([drawn.brightness for drawn in jittered], 0.2, 1.8),
        ([drawn.contrast for drawn in jittered], 0.2, 1.8),
        ([drawn.saturation for drawn in jittered], 0.2, 1.8),
        ([drawn.hue for drawn in jittered], -0.2, 0.2),
        (sigmas, 0.1, 2.0),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 0.001
    orders = {drawn.order for drawn in augmentations}
    assert len(orders) == 24


def test_distribution_of_views_is_that_of_torchvision():
    """Compare mean, spread, colorfulness and similar statistics of many views of one image by a two-sample test."""
    image = random_images(1, 24, seed=3)
    transform = v2.Compose(
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
    views_per_sample = 1500
    parameters = torch.tensor([pack_parameters(draw_augmentation(generator)) for _ in range(views_per_sample)])
    ours = augment(image.expand(views_per_sample, -1, -1, -1), parameters)
    theirs = torch.stack([transform(image[0]) for _ in range(views_per_sample)])
    for statistic in (
        lambda views: views.mean((1, 2, 3)),
        lambda views: views.std((1, 2, 3)),
        lambda views: (views.amax(1) - views.amin(1)).mean((1, 2)),
        lambda views: (views[:, :, :, 0] - views[:, :, :, -1]).mean((1, 2)),
        lambda views: views.diff(dim=3).abs().mean((1, 2, 3)),
        lambda views: (views[:, 0] - views[:, 2]).mean((1, 2)),
    ):
        # Rounded, so that the fifth of the views without jitter has equal values in both samples.
        rounded = (statistic(views).double().numpy().round(3) for views in (ours, theirs))
        assert stats.ks_2samp(*rounded).pvalue > 0.001


def test_kernel_size_is_odd_and_about_a_tenth_of_the_side():
    assert [kernel_size(side) for side in (32, 64, 96, 224)] == [3, 7, 9, 23]


def test_blur_of_no_image_returns_the_input():
    views = torch.rand(2, 3, 16, 16)
    assert gaussian_blur(views, torch.zeros(2)) is views


def test_settings_change_strength_and_blur_and_nothing_else():
    for seed in range(200):
        usual, weak, sharp = (
            draw_augmentation(np.random.default_rng(seed), settings)
            for settings in (SIMCLR_VIEWS, ViewSettings(jitter_strength=0.5), ViewSettings(blur=False))
        )
        for name in ("brightness", "contrast", "saturation"):
            assert getattr(weak, name) - 1 == pytest.approx((getattr(usual, name) - 1) / 2)
        assert weak.hue == pytest.approx(usual.hue / 2)
        assert (weak.flip, weak.order, weak.gray, weak.sigma) == (usual.flip, usual.order, usual.gray, usual.sigma)
        assert sharp == usual._replace(sigma=0.0)
        none = draw_augmentation(np.random.default_rng(seed), ViewSettings(jitter_strength=0.0))
        assert (none.brightness, none.contrast, none.saturation, none.hue) == (1, 1, 1, 0)
        strong = draw_augmentation(np.random.default_rng(seed), ViewSettings(jitter_strength=3.0))
        assert min(strong.brightness, strong.contrast, strong.saturation) >= 0
