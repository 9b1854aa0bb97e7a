import re

import numpy as np
import pytest
import torch

from common.fixations.maps import blur_fixations, center_prior
from common.saliency import auc_judd, cc, kld, mean_over_images, nss, shuffled_auc, sim
from tests.support.saliency import (
    HEIGHT,
    WIDTH,
    make_maps,
    make_points,
    pixel_centers,
)

MAP_METRICS = [kld, cc, sim]


# --- constant maps and images without points


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, -7.7, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_constant_map_has_cc_and_nss_0_and_auc_one_half(value: float, dtype: torch.dtype) -> None:
    constant, other = torch.full((1, 33, 47), value, dtype=dtype), torch.rand(1, 33, 47)
    points = make_points([5], seed=1)
    assert cc(constant, other).item() == 0
    assert cc(other, constant).item() == 0
    assert nss(constant, points).item() == 0
    assert auc_judd(constant, points).item() == 0.5
    assert shuffled_auc(constant, points, points).item() == 0.5


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 12345.678])
def test_a_constant_map_counts_as_constant_after_resizing(value: float) -> None:
    for size in [(7, 7), (14, 14), (300, 333)]:
        assert cc(torch.full((1, *size), value), torch.rand(1, 224, 224)).item() == 0


def test_a_map_of_zeros_is_treated_as_uniform() -> None:
    target, zeros = make_maps(2, seed=1), torch.zeros(2, HEIGHT, WIDTH)
    assert torch.equal(kld(zeros, target), kld(zeros + 1, target))
    assert torch.equal(sim(zeros, target), sim(zeros + 1, target))


def test_a_map_with_a_single_positive_pixel_is_a_distribution() -> None:
    single = torch.zeros(1, 2, 2)
    single[0, 1, 0] = 1
    assert sim(single, single).item() == 1
    assert sim(single, torch.ones(1, 2, 2)).item() == 0.25
    assert kld(single, single).item() == 0


def test_maps_of_subnormal_numbers_are_distributions() -> None:
    values = torch.tensor([[[1.0, 3.0]]])
    assert sim(values * 1e-40, values).item() == pytest.approx(1, abs=1e-3)


def test_values_within_16_machine_epsilons_count_as_constant() -> None:
    ramp = torch.arange(3.0).expand(1, 1, 3)
    for epsilons, constant in ((16, True), (17, False)):
        almost = torch.ones(1, 1, 3)
        almost[..., 0] -= epsilons * torch.finfo(torch.float32).eps
        assert (cc(almost, ramp).item() == 0) == constant


def test_images_without_points_are_excluded_from_the_mean() -> None:
    prediction, points = make_maps(3, seed=1), make_points([4, 0, 7], seed=2, columns=3)
    for scores in (nss(prediction, points), auc_judd(prediction, points), shuffled_auc(prediction, points, points)):
        assert scores.isnan().tolist() == [False, True, False]
        assert mean_over_images(scores).item() == pytest.approx((scores[0] + scores[2]).item() / 2)


def test_a_mean_over_no_images_is_nan() -> None:
    assert mean_over_images(nss(make_maps(2, seed=1), make_points([0, 0], seed=1))).isnan()


def test_auc_without_negatives_is_nan() -> None:
    rows, columns = np.indices((HEIGHT, WIDTH)).reshape(2, -1)
    all_pixels, no_points = [pixel_centers(rows, columns)], [np.empty((0, 2))]
    assert auc_judd(make_maps(1, seed=1), all_pixels).isnan().all()
    assert shuffled_auc(make_maps(1, seed=1), all_pixels, no_points).isnan().all()


def test_no_images_give_no_scores() -> None:
    empty = torch.zeros(0, 4, 5)
    scores = [*(metric(empty, empty) for metric in MAP_METRICS), nss(empty, []), auc_judd(empty, [])]
    assert [list(found.shape) for found in [*scores, shuffled_auc(empty, [], [])]] == [[0]] * 6
    assert list(blur_fixations([], 4, 5, 1.0).shape) == [0, 4, 5]


# --- errors


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", MAP_METRICS)
def test_error_for_a_non_finite_map_names_argument_and_image(metric, value: float) -> None:
    good, bad = make_maps(3, 1), make_maps(3, 2)
    bad[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"prediction: NaN or infinity in the maps of images 1$"):
        metric(bad, good)
    with pytest.raises(ValueError, match=r"target: NaN or infinity in the maps of images 1$"):
        metric(good, bad)
    for point_metric in (nss, auc_judd, lambda maps, points: shuffled_auc(maps, points, points)):
        with pytest.raises(ValueError, match=r"prediction: NaN or infinity in the maps of images 1$"):
            point_metric(bad, make_points([1, 1, 1], seed=1))


def test_error_for_many_maps_lists_the_first_ten() -> None:
    with pytest.raises(ValueError, match=r"images 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 40 more$"):
        cc(torch.full((50, 2, 2), np.nan), torch.ones(50, 2, 2))


@pytest.mark.parametrize("metric", [kld, sim])
def test_negative_values_are_rejected_by_kld_and_sim(metric) -> None:
    with pytest.raises(ValueError, match=r"prediction: expected non-negative maps, found values below 0 in images 1$"):
        metric(torch.tensor([[[0.0, 2]], [[1, -1]]]), torch.ones(2, 1, 2))
    with pytest.raises(ValueError, match=r"target: expected non-negative maps, found values below 0 in images 0$"):
        metric(torch.ones(2, 1, 2), torch.tensor([[[1.0, -2]], [[1, 1]]]))


@pytest.mark.parametrize("point", [(np.nan, 0.5), (0.5, np.inf), (-0.01, 0.5), (0.5, 1.01), (320, 240)])
def test_error_for_a_point_outside_of_the_frame_names_argument_and_image(point: tuple[float, float]) -> None:
    good, bad = make_points([2, 0, 3], seed=1), make_points([2, 0, 3], seed=1)
    bad[2][1] = point
    found = re.escape(str([float(coordinate) for coordinate in point]))
    with pytest.raises(ValueError, match=rf"^points: expected x, y in \[0, 1\], found {found} in images 2$"):
        nss(make_maps(3, 1), bad)
    with pytest.raises(ValueError, match=r"^other_points: expected x, y in \[0, 1\], found .* in images 2$"):
        shuffled_auc(make_maps(3, 1), good, bad)
    with pytest.raises(ValueError, match=r"^points: expected x, y in \[0, 1\]"):
        blur_fixations(bad, 9, 9, 1.0)


def test_invalid_shapes_and_arguments_are_rejected() -> None:
    maps = torch.rand(2, 3, 4)
    with pytest.raises(ValueError, match=r"prediction: expected maps \[B, H, W\], found \[3, 4\]"):
        cc(maps[0], maps)
    with pytest.raises(ValueError, match=r"target: expected maps \[B, H, W\], found \[2, 0, 4\]"):
        kld(maps, maps[:, :0])
    with pytest.raises(ValueError, match="as many predictions as targets, found 2 and 1"):
        sim(maps, maps[:1])
    with pytest.raises(ValueError, match="points: expected one array for each of 2 images, found 1"):
        nss(maps, make_points([3], seed=1))
    with pytest.raises(ValueError, match=r"points: expected \[n, 2 or more\], found \[3, 1\] at image 1"):
        nss(maps, [np.zeros((0, 3)), np.zeros((3, 1))])
    with pytest.raises(ValueError, match="weights: expected one for each point"):
        blur_fixations(np.zeros((3, 2)), 4, 4, 1.0, np.ones(2))
    with pytest.raises(ValueError, match="weights: expected finite numbers, found NaN or infinity"):
        blur_fixations(np.zeros((1, 2)), 4, 4, 1.0, np.array([np.nan]))
    for sigma in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma: expected pixels"):
            blur_fixations(np.zeros((1, 2)), 4, 4, sigma)
    with pytest.raises(ValueError, match="share: expected a share of the frame above 0, found 0"):
        center_prior(3, 4, share=0)


def test_points_may_be_tensors_that_require_gradients() -> None:
    prediction, [points] = make_maps(1, seed=1), make_points([5], seed=2)
    assert torch.equal(nss(prediction, [torch.tensor(points, requires_grad=True)]), nss(prediction, [points]))
