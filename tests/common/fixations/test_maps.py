import numpy as np
import pytest
import scipy.io
import torch
from scipy.ndimage import gaussian_filter

from common.fixations.maps import blur_fixations, center_prior
from common.saliency import cc, mean_over_images, nss
from tests.support.saliency import make_points, to_pixels


@pytest.mark.parametrize("sigma", [0, 0.1, 0.5, 1.3, 4.75, 19, 60])
def test_blur_fixations_equals_scipys_gaussian_filter(sigma: float) -> None:
    generator = np.random.default_rng(1)
    points, weights = generator.uniform(0, 1, (50, 3)), generator.uniform(0.1, 2, 50)
    points = np.concatenate([points, points[:9]])  # some points occur twice
    weights = np.concatenate([weights, weights[:9]])
    for given_weights, heights in [(None, np.ones(59)), (weights, weights)]:
        impulses = np.zeros((48, 64))
        np.add.at(impulses, to_pixels(points, 48, 64), heights)
        expected = gaussian_filter(impulses, sigma, mode="constant")
        blurred = blur_fixations(points, 48, 64, sigma, given_weights)
        assert blurred.dtype == torch.float32
        assert blurred.numpy() == pytest.approx(expected, abs=1e-6)
        assert blurred.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_a_list_of_fixations_gives_a_batch_of_maps() -> None:
    points = [torch.from_numpy(array) for array in make_points([3, 0, 8], seed=1, columns=3)]
    weights = [array[:, 2] for array in points]
    batch = blur_fixations(points, 20, 30, 2.5, weights)
    assert batch.shape == (3, 20, 30)
    assert (batch[1] == 0).all()
    for single, xy, heights in zip(batch, points, weights, strict=True):
        assert single.numpy() == pytest.approx(blur_fixations(xy, 20, 30, 2.5, heights).numpy(), abs=1e-9)


def test_blurring_preserves_the_mass_of_fixations_far_from_the_border() -> None:
    assert blur_fixations(np.full((7, 2), 0.5), 100, 120, 5.0).sum().item() == pytest.approx(7)
    assert blur_fixations(np.zeros((1, 2)), 100, 120, 5.0).sum().item() < 0.5


def test_center_prior_is_a_gaussian_whose_sigma_is_a_share_of_each_side() -> None:
    prior = center_prior(61, 81, share=0.2)
    assert prior.shape == (61, 81)
    assert prior[30, 40].item() == prior.max().item() == 1
    assert torch.equal(prior, prior.flip(0))
    assert torch.equal(prior, prior.flip(1))
    one_sigma = np.exp(-0.5)
    assert center_prior(50, 70, share=0.2)[25, [20, 21, 48, 49]].mean().item() == pytest.approx(one_sigma, abs=0.01)
    assert prior[30, 0].item() == pytest.approx(np.exp(-0.5 * ((40 / 81) / 0.2) ** 2), rel=1e-4)


def test_center_prior_scores_on_osie_as_documented(shared_data) -> None:
    images = scipy.io.loadmat(shared_data / "osie/data/eye/fixations.mat", simplify_cells=True)["fixations"]
    points = [
        np.concatenate([np.c_[subject["fix_x"], subject["fix_y"]] for subject in image["subjects"]]) / [800, 600]
        for image in images
    ]
    human = blur_fixations(points, 120, 160, 19 / 640 * 160)
    prior = center_prior(120, 160).expand_as(human)
    assert mean_over_images(cc(prior, human)).item() == pytest.approx(0.303, abs=0.001)
    assert mean_over_images(nss(prior, points)).item() == pytest.approx(0.851, abs=0.002)
    fifth = slice(None, None, 5)
    assert mean_over_images(cc(prior[fifth], human[fifth])).item() == pytest.approx(0.305, abs=0.001)
    assert mean_over_images(nss(prior[fifth], points[fifth])).item() == pytest.approx(0.814, abs=0.002)
