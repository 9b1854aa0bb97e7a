import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.fixations.maps import blur_fixations
from common.saliency import EPSILON, auc_judd, cc, kld, nss, shuffled_auc, sim
from tests.support.saliency import (
    HEIGHT,
    WIDTH,
    make_maps,
    make_points,
    map_values,
    non_constant,
    pixel_centers,
    point_values,
    to_batch,
)

MAP_METRICS = [kld, cc, sim]


@given(non_constant, non_constant, st.floats(0.01, 100), st.floats(-10, 10))
def test_cc_is_invariant_to_scale_and_offset_and_changes_sign_with_the_map(p, q, scale, offset) -> None:
    expected = cc(to_batch(p), to_batch(q)).item()
    assert cc(to_batch(scale * p + offset), to_batch(q)).item() == pytest.approx(expected, abs=1e-9)
    assert cc(to_batch(p), to_batch(scale * q + offset)).item() == pytest.approx(expected, abs=1e-9)
    assert cc(to_batch(offset - scale * p), to_batch(q)).item() == pytest.approx(-expected, abs=1e-9)


@given(non_constant, non_constant)
def test_cc_is_symmetric_and_at_most_1_and_1_for_equal_maps(p, q) -> None:
    assert cc(to_batch(p), to_batch(q)).item() == pytest.approx(cc(to_batch(q), to_batch(p)).item(), abs=1e-12)
    assert abs(cc(to_batch(p), to_batch(q)).item()) <= 1 + 1e-9
    assert cc(to_batch(p), to_batch(p)).item() == pytest.approx(1, abs=1e-9)


@given(map_values, map_values, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_kld_is_finite_non_negative_and_invariant_to_scale(p, q, first, second) -> None:
    assume(p.max() > 1e-100)
    assume(q.max() > 1e-100)
    divergence = kld(to_batch(p), to_batch(q)).item()
    assert -1e-10 < divergence < 37  # -log(eps) is 36.04
    assert kld(to_batch(p * first), to_batch(q * second)).item() == pytest.approx(divergence, abs=1e-6)


@given(map_values)
def test_kld_of_equal_maps_is_0_and_their_sim_is_1(p) -> None:
    assert kld(to_batch(p), to_batch(p)).item() == pytest.approx(0, abs=1e-10)
    assert sim(to_batch(p), to_batch(p)).item() == pytest.approx(1)


@given(map_values, map_values)
def test_sim_is_symmetric_between_0_and_1(p, q) -> None:
    similarity = sim(to_batch(p), to_batch(q)).item()
    assert -1e-12 <= similarity <= 1 + 1e-12
    assert sim(to_batch(q), to_batch(p)).item() == similarity


def test_maps_that_do_not_overlap_have_sim_0_and_the_largest_kld() -> None:
    left, right = torch.zeros(2, 1, 4, 6, dtype=torch.float64)
    left[..., :3], right[..., 3:] = 1, 1
    assert sim(left, right).item() == 0
    assert kld(left, right).item() == pytest.approx(-np.log(12 * EPSILON))


@given(non_constant, point_values, st.floats(0.01, 100), st.floats(-10, 10))
def test_nss_is_invariant_to_scale_and_offset_and_changes_sign_with_the_map(p, points, scale, offset) -> None:
    expected = nss(to_batch(p), [points]).item()
    assert nss(to_batch(scale * p + offset), [points]).item() == pytest.approx(expected, abs=1e-6)
    assert nss(to_batch(offset - scale * p), [points]).item() == pytest.approx(-expected, abs=1e-6)


@given(non_constant)
def test_nss_over_every_pixel_is_0(p) -> None:
    rows, columns = np.indices(p.shape).reshape(2, -1)
    assert nss(to_batch(p), [pixel_centers(rows, columns)]).item() == pytest.approx(0, abs=1e-9)


@given(arrays(np.float64, (HEIGHT, WIDTH), elements=st.integers(0, 50)), point_values, point_values)
def test_auc_is_invariant_to_monotonic_functions_and_mirrored_by_the_sign(values, points, others) -> None:
    for changed in (values**3 + 7, np.exp(values / 10), values / 100 - 5):
        assert auc_judd(to_batch(changed), [points]).item() == auc_judd(to_batch(values), [points]).item()
        found = shuffled_auc(to_batch(changed), [points], [others]).item()
        assert found == shuffled_auc(to_batch(values), [points], [others]).item()
        assert found == pytest.approx(1 - shuffled_auc(to_batch(-changed), [points], [others]).item())


@given(non_constant, point_values, point_values)
def test_auc_lies_between_0_and_1(values, points, others) -> None:
    assert 0 <= auc_judd(to_batch(values), [points]).item() <= 1
    assert 0 <= shuffled_auc(to_batch(values), [points], [others]).item() <= 1


@given(point_values)
def test_a_map_of_the_fixations_has_the_best_auc(points) -> None:
    fixated = blur_fixations(points, HEIGHT, WIDTH, sigma=0)[None]
    assert auc_judd(fixated, [points]).item() == 1
    rows, columns = np.nonzero(fixated[0].numpy() == 0)
    assert shuffled_auc(fixated, [points], [pixel_centers(rows, columns)]).item() == 1


def test_a_blurred_map_of_the_fixations_has_an_auc_near_1() -> None:
    points = make_points([20], seed=1)
    assert auc_judd(blur_fixations(points, 60, 80, sigma=2), points).item() > 0.97


def test_the_order_of_images_does_not_matter() -> None:
    order = [3, 0, 2, 1]
    prediction, target = make_maps(4, seed=6), make_maps(4, seed=7)
    points, others = make_points([4, 0, 9, 30], seed=8), make_points([10, 20, 0, 5], seed=9)
    for metric in MAP_METRICS:
        assert (metric(prediction, target)[order] == metric(prediction[order], target[order])).all()
    moved, moved_others = [points[i] for i in order], [others[i] for i in order]
    for before, after in [
        (nss(prediction, points), nss(prediction[order], moved)),
        (auc_judd(prediction, points), auc_judd(prediction[order], moved)),
        (shuffled_auc(prediction, points, others), shuffled_auc(prediction[order], moved, moved_others)),
        (blur_fixations(points, 9, 9, 1.5), blur_fixations(moved, 9, 9, 1.5)),
    ]:
        assert torch.equal(before[order].nan_to_num(-9), after.nan_to_num(-9))
