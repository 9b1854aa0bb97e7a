import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu
from torch.autograd import gradcheck

from common.fixation_maps import blur_fixations, center_prior
from common.saliency import (
    EPSILON,
    auc_judd,
    cc,
    kld,
    mean_over_images,
    nss,
    shuffled_auc,
    sim,
)

HEIGHT, WIDTH = 12, 17
MAP_METRICS = [kld, cc, sim]
PYSALIENCY = {
    "kld": 2.4736167231369857,
    "cc": 0.04127496297947034,
    "sim": 0.6216335753088795,
    "nss": -0.19458732028674433,
    "auc_judd": 0.4333579881656805,
    "shuffled_auc": 0.425,
}


# The benchmark's MATLAB files in numpy, on one map of float64. `rows` and `columns` are fixated pixels.
def matlab_kld(prediction, target):
    prediction, target = prediction / prediction.sum(), target / target.sum()
    return np.sum(target * np.log(2.2204e-16 + target / (prediction + 2.2204e-16)))


def matlab_cc(prediction, target):
    return np.corrcoef(prediction.ravel(), target.ravel())[0, 1]


def matlab_sim(prediction, target):
    prediction, target = ((m - m.min()) / (m.max() - m.min()) for m in (prediction, target))
    return np.minimum(prediction / prediction.sum(), target / target.sum()).sum()


def matlab_nss(prediction, rows, columns):
    return ((prediction - prediction.mean()) / prediction.std())[rows, columns].mean()


def matlab_auc_judd(prediction, rows, columns):
    """AUC_Judd.m without jitter: for maps without ties and pixels that are fixated once."""
    fixated = np.zeros(prediction.shape, bool)
    fixated[rows, columns] = True
    thresholds = np.sort(prediction[fixated])[::-1]
    hits, false_alarms = [0.0], [0.0]
    for i, threshold in enumerate(thresholds, start=1):
        above = (prediction >= threshold).sum()
        hits.append(i / len(thresholds))
        false_alarms.append((above - i) / (prediction.size - len(thresholds)))
    return np.trapezoid([*hits, 1], [*false_alarms, 1])


def some_maps(count: int, seed: int, height: int = HEIGHT, width: int = WIDTH, dtype=torch.float64) -> torch.Tensor:
    """Maps without ties, of very uneven scale."""
    generator = np.random.default_rng(seed)
    scale = 10.0 ** generator.uniform(-3, 3, (count, 1, 1))
    return torch.from_numpy(generator.uniform(1e-3, 1, (count, height, width)) ** 3 * scale).to(dtype)


def some_points(counts: list[int], seed: int, columns: int = 2) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.uniform(0, 1, (count, columns)) for count in counts]


def pixels(points: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(points[:, 1] * height).astype(int), np.floor(points[:, 0] * width).astype(int)


def middles(rows: np.ndarray, columns: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Points at the middle of pixels."""
    return np.stack([(columns + 0.5) / width, (rows + 0.5) / height], 1)


def distinct_points(count: int, seed: int) -> np.ndarray:
    """Points of which no two share a pixel."""
    chosen = np.random.default_rng(seed).choice(HEIGHT * WIDTH, count, replace=False)
    return middles(*np.unravel_index(chosen, (HEIGHT, WIDTH)))


map_values = arrays(np.float64, (HEIGHT, WIDTH), elements=st.floats(0, 1, allow_subnormal=False))
uneven = map_values.filter(lambda values: np.ptp(values) > 1e-3)
point_values = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, (n, 2), elements=st.floats(0, 1)))


def one(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values)[None]


# --- the definitions


@pytest.mark.parametrize(("metric", "oracle"), [(kld, matlab_kld), (cc, matlab_cc)])
@pytest.mark.parametrize("seed", range(3))
def test_kld_and_cc_are_the_benchmarks(metric, oracle, seed: int) -> None:
    prediction, target = some_maps(6, seed), some_maps(6, seed + 100)
    expected = [oracle(p, q) for p, q in zip(prediction.numpy(), target.numpy(), strict=True)]
    assert metric(prediction, target).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_sim_is_the_benchmarks_for_maps_that_reach_0(seed: int) -> None:
    prediction, target = (maps - maps.amin((1, 2), True) for maps in (some_maps(6, seed), some_maps(6, seed + 100)))
    expected = [matlab_sim(p, q) for p, q in zip(prediction.numpy(), target.numpy(), strict=True)]
    assert sim(prediction, target).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_nss_is_the_benchmarks(seed: int) -> None:
    prediction, points = some_maps(4, seed), some_points([1, 5, 300, 20], seed, columns=3)
    expected = [matlab_nss(p, *pixels(xy)) for p, xy in zip(prediction.numpy(), points, strict=True)]
    assert nss(prediction, points).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_auc_judd_is_the_benchmarks(seed: int) -> None:
    prediction, points = some_maps(3, seed), [distinct_points(count, seed) for count in (1, 7, 60)]
    expected = [matlab_auc_judd(p, *pixels(xy)) for p, xy in zip(prediction.numpy(), points, strict=True)]
    assert auc_judd(prediction, points).tolist() == pytest.approx(expected, abs=1e-9)


def test_metrics_give_what_pysaliency_gave() -> None:
    # pysaliency 0.2.22: MIT_KLDiv, CC, SIM, mean of NSS, general_roc(fixated, unfixated, judd=1), and general_roc of
    # fixated against other images' points. Values of 0 to 7, so most are tied; some pixels are fixated twice.
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    prediction, target = one((3.0 * x + 5 * y + x * y) % 8), one((x * x + 2.0 * y) % 7)
    steps = np.arange(40)
    points, others = [middles(steps * 5 % 7, steps * 3 % 5)], [middles(steps * 7 % HEIGHT, steps * 2 % WIDTH)]
    assert kld(prediction, target).item() == pytest.approx(PYSALIENCY["kld"], abs=1e-9)
    assert cc(prediction, target).item() == pytest.approx(PYSALIENCY["cc"], abs=1e-9)
    assert sim(prediction, target).item() == pytest.approx(PYSALIENCY["sim"], abs=1e-9)
    assert nss(prediction, points).item() == pytest.approx(PYSALIENCY["nss"], abs=1e-9)
    assert auc_judd(prediction, points).item() == pytest.approx(PYSALIENCY["auc_judd"], abs=1e-9)
    assert shuffled_auc(prediction, points, others).item() == pytest.approx(PYSALIENCY["shuffled_auc"], abs=1e-9)


@given(arrays(np.float64, (HEIGHT, WIDTH), elements=st.integers(0, 4)), point_values, point_values)
def test_shuffled_auc_is_mann_whitneys_u_over_its_largest(values, points, others) -> None:
    fixated, elsewhere = values[pixels(points * 0.999)], values[pixels(others * 0.999)]
    expected = mannwhitneyu(fixated, elsewhere).statistic / (len(fixated) * len(elsewhere))
    found = shuffled_auc(one(values), [points * 0.999], [others * 0.999])
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_a_threshold_of_auc_judd_takes_in_all_that_is_equal_to_it() -> None:
    # fixated 3 and 1; others 3, 2, 1, 0: (0, 0), (1/4, 1/2), (3/4, 1), (1, 1)
    values = torch.tensor([[[3.0, 1, 3, 2, 1, 0]]])
    points = [middles(np.array([0, 0]), np.array([0, 1]), 1, 6)]
    assert auc_judd(values, points).item() == pytest.approx(1 / 16 + 3 / 8 + 1 / 4)


def test_auc_judd_is_what_the_benchmarks_jitter_approaches() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 5, (HEIGHT, WIDTH)).astype(float)
    points = distinct_points(60, seed=2)
    jittered = [matlab_auc_judd(values + generator.uniform(0, 1e-7, values.shape), *pixels(points)) for _ in range(50)]
    assert auc_judd(one(values), [points]).item() == pytest.approx(np.mean(jittered), abs=1 / 60)


def test_repeated_points_count() -> None:
    prediction = some_maps(1, seed=3)
    first, second = distinct_points(2, seed=4)
    repeated = [np.stack([first, first, first, second])]
    apart = [nss(prediction, [point[None]]).item() for point in (first, second)]
    assert nss(prediction, repeated).item() == pytest.approx(0.75 * apart[0] + 0.25 * apart[1])
    assert auc_judd(prediction, repeated) != auc_judd(prediction, [np.stack([first, second])])
    elsewhere = [distinct_points(20, seed=5)]
    areas = [shuffled_auc(prediction, [point[None]], elsewhere).item() for point in (first, second)]
    assert shuffled_auc(prediction, repeated, elsewhere).item() == pytest.approx(0.75 * areas[0] + 0.25 * areas[1])


@pytest.mark.parametrize(
    ("x", "y", "row", "column"),
    [(0, 0, 0, 0), (1, 1, 3, 4), (0.2, 0.25, 1, 1), (0.1999, 0.2499, 0, 0), (0.999, 0.5, 2, 4), (1, 0, 0, 4)],
)
def test_a_point_lies_in_the_pixel_that_covers_it(x: float, y: float, row: int, column: int) -> None:
    fixated = blur_fixations(np.array([[x, y]]), 4, 5, sigma=0)
    assert fixated.nonzero().tolist() == [[row, column]]
    assert nss(fixated[None], [torch.tensor([[x, y]])]).item() == pytest.approx(np.sqrt(19))


def test_a_prediction_of_another_size_is_resized_to_the_targets() -> None:
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 48, 64)
    small = ramp.unflatten(1, (12, 4)).unflatten(3, (16, 4)).mean((2, 4))  # area means of a ramp are a ramp
    assert cc(ramp, small).item() == pytest.approx(1, abs=1e-3)
    assert cc(small, ramp).item() == pytest.approx(1, abs=1e-3)
    assert kld(small, ramp).item() == pytest.approx(0, abs=1e-3)
    assert sim(small, ramp).item() == pytest.approx(1, abs=1e-2)


def test_shrinking_a_prediction_averages_its_pixels() -> None:
    checkers = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2)[None].double()
    assert sim(checkers, torch.ones(1, 8, 8)).item() > 0.98


# --- laws


@given(uneven, uneven, st.floats(0.01, 100), st.floats(-10, 10))
def test_cc_does_not_change_with_scale_and_offset_and_flips_with_the_sign(p, q, scale, offset) -> None:
    expected = cc(one(p), one(q)).item()
    assert cc(one(scale * p + offset), one(q)).item() == pytest.approx(expected, abs=1e-9)
    assert cc(one(p), one(scale * q + offset)).item() == pytest.approx(expected, abs=1e-9)
    assert cc(one(offset - scale * p), one(q)).item() == pytest.approx(-expected, abs=1e-9)


@given(uneven, uneven)
def test_cc_is_symmetric_and_at_most_1_which_it_is_for_equal_maps(p, q) -> None:
    assert cc(one(p), one(q)).item() == pytest.approx(cc(one(q), one(p)).item(), abs=1e-12)
    assert abs(cc(one(p), one(q)).item()) <= 1 + 1e-9
    assert cc(one(p), one(p)).item() == pytest.approx(1, abs=1e-9)


@given(map_values, map_values, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_kld_is_finite_and_not_negative_and_does_not_change_with_scale(p, q, first, second) -> None:
    assume(p.max() > 1e-100)
    assume(q.max() > 1e-100)
    divergence = kld(one(p), one(q)).item()
    assert -1e-10 < divergence < 37  # of -log(eps)
    assert kld(one(p * first), one(q * second)).item() == pytest.approx(divergence, abs=1e-6)


@given(map_values)
def test_kld_of_equal_maps_is_0_and_their_sim_is_1(p) -> None:
    assert kld(one(p), one(p)).item() == pytest.approx(0, abs=1e-10)
    assert sim(one(p), one(p)).item() == pytest.approx(1)


@given(map_values, map_values)
def test_sim_is_symmetric_between_0_and_1(p, q) -> None:
    similarity = sim(one(p), one(q)).item()
    assert -1e-12 <= similarity <= 1 + 1e-12
    assert sim(one(q), one(p)).item() == similarity


def test_maps_that_do_not_overlap_have_sim_0_and_the_largest_kld() -> None:
    left, right = torch.zeros(2, 1, 4, 6, dtype=torch.float64)
    left[..., :3], right[..., 3:] = 1, 1
    assert sim(left, right).item() == 0
    assert kld(left, right).item() == pytest.approx(-np.log(12 * EPSILON))


@given(uneven, point_values, st.floats(0.01, 100), st.floats(-10, 10))
def test_nss_does_not_change_with_scale_and_offset_and_flips_with_the_sign(p, points, scale, offset) -> None:
    expected = nss(one(p), [points]).item()
    assert nss(one(scale * p + offset), [points]).item() == pytest.approx(expected, abs=1e-6)
    assert nss(one(offset - scale * p), [points]).item() == pytest.approx(-expected, abs=1e-6)


@given(uneven)
def test_nss_over_every_pixel_is_0(p) -> None:
    rows, columns = np.indices(p.shape).reshape(2, -1)
    assert nss(one(p), [middles(rows, columns)]).item() == pytest.approx(0, abs=1e-9)


@given(arrays(np.float64, (HEIGHT, WIDTH), elements=st.integers(0, 50)), point_values, point_values)
def test_auc_does_not_change_with_monotone_maps_and_mirrors_with_the_sign(values, points, others) -> None:
    for changed in (values**3 + 7, np.exp(values / 10), values / 100 - 5):
        assert auc_judd(one(changed), [points]).item() == auc_judd(one(values), [points]).item()
        found = shuffled_auc(one(changed), [points], [others]).item()
        assert found == shuffled_auc(one(values), [points], [others]).item()
        assert found == pytest.approx(1 - shuffled_auc(one(-changed), [points], [others]).item())


@given(uneven, point_values, point_values)
def test_auc_lies_between_0_and_1(values, points, others) -> None:
    assert 0 <= auc_judd(one(values), [points]).item() <= 1
    assert 0 <= shuffled_auc(one(values), [points], [others]).item() <= 1


@given(point_values)
def test_a_map_of_its_own_fixations_has_the_best_auc(points) -> None:
    fixated = blur_fixations(points, HEIGHT, WIDTH, sigma=0)[None]
    assert auc_judd(fixated, [points]).item() == 1
    rows, columns = np.nonzero(fixated[0].numpy() == 0)
    assert shuffled_auc(fixated, [points], [middles(rows, columns)]).item() == 1


def test_a_blurred_map_of_its_own_fixations_has_an_auc_near_1() -> None:
    points = some_points([20], seed=1)
    assert auc_judd(blur_fixations(points, 60, 80, sigma=2), points).item() > 0.97


def test_the_order_of_images_does_not_matter() -> None:
    order = [3, 0, 2, 1]
    prediction, target = some_maps(4, seed=6), some_maps(4, seed=7)
    points, others = some_points([4, 0, 9, 30], seed=8), some_points([10, 20, 0, 5], seed=9)
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


# --- maps and images that hold nothing


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, -7.7, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_constant_map_has_cc_and_nss_0_and_auc_one_half(value: float, dtype: torch.dtype) -> None:
    constant, other = torch.full((1, 33, 47), value, dtype=dtype), torch.rand(1, 33, 47)
    points = some_points([5], seed=1)
    assert cc(constant, other).item() == 0
    assert cc(other, constant).item() == 0
    assert nss(constant, points).item() == 0
    assert auc_judd(constant, points).item() == 0.5
    assert shuffled_auc(constant, points, points).item() == 0.5


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, 12345.678])
def test_a_constant_map_is_constant_after_resizing_too(value: float) -> None:
    for size in [(7, 7), (14, 14), (300, 333)]:
        assert cc(torch.full((1, *size), value), torch.rand(1, 224, 224)).item() == 0


def test_a_map_of_zeros_is_taken_as_uniform() -> None:
    target, zeros = some_maps(2, seed=1), torch.zeros(2, HEIGHT, WIDTH)
    assert torch.equal(kld(zeros, target), kld(zeros + 1, target))
    assert torch.equal(sim(zeros, target), sim(zeros + 1, target))


def test_an_image_without_points_is_left_out_of_the_mean() -> None:
    prediction, points = some_maps(3, seed=1), some_points([4, 0, 7], seed=2, columns=3)
    for scores in (nss(prediction, points), auc_judd(prediction, points), shuffled_auc(prediction, points, points)):
        assert scores.isnan().tolist() == [False, True, False]
        assert mean_over_images(scores).item() == pytest.approx((scores[0] + scores[2]).item() / 2)


def test_a_mean_over_no_images_is_nan() -> None:
    assert mean_over_images(nss(some_maps(2, seed=1), some_points([0, 0], seed=1))).isnan()


def test_auc_without_negatives_is_nan() -> None:
    rows, columns = np.indices((HEIGHT, WIDTH)).reshape(2, -1)
    everywhere, nowhere = [middles(rows, columns)], [np.empty((0, 2))]
    assert auc_judd(some_maps(1, seed=1), everywhere).isnan().all()
    assert shuffled_auc(some_maps(1, seed=1), everywhere, nowhere).isnan().all()


def test_no_images_give_no_scores() -> None:
    empty = torch.zeros(0, 4, 5)
    scores = [*(metric(empty, empty) for metric in MAP_METRICS), nss(empty, []), auc_judd(empty, [])]
    assert [list(found.shape) for found in [*scores, shuffled_auc(empty, [], [])]] == [[0]] * 6
    assert list(blur_fixations([], 4, 5, 1.0).shape) == [0, 4, 5]


# --- gradients and types


@pytest.mark.parametrize("metric", MAP_METRICS)
@pytest.mark.parametrize("size", [(4, 5), (6, 9)])
def test_gradients_of_map_metrics_are_right(metric, size: tuple[int, int]) -> None:
    prediction, target = some_maps(2, 1, 4, 5).requires_grad_(), some_maps(2, 2, *size).requires_grad_()
    assert gradcheck(lambda p, q: metric(p + 0.1, q + 0.1), (prediction, target))


def test_gradients_of_nss_are_right_and_0_for_images_that_are_left_out() -> None:
    prediction, points = some_maps(3, 1, 4, 5).requires_grad_(), some_points([3, 0, 40], seed=2)
    assert gradcheck(lambda maps: mean_over_images(nss(maps, points)), prediction)
    mean_over_images(nss(prediction, points)).backward()
    assert (prediction.grad[1] == 0).all()
    assert (prediction.grad[[0, 2]] != 0).any(2).any(1).all()


def test_gradients_of_a_batch_without_any_points_are_0() -> None:
    prediction = some_maps(2, seed=1).requires_grad_()
    mean_over_images(nss(prediction, some_points([0, 0], seed=1))).backward()
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["zeros", "constant", "one pixel", "tiny", "large"])
def test_gradients_are_finite_whatever_the_maps(dtype: torch.dtype, kind: str) -> None:
    target = some_maps(1, seed=1)
    target[0, :6] = 0
    maps = {
        "zeros": torch.zeros(1, HEIGHT, WIDTH),
        "constant": torch.full((1, HEIGHT, WIDTH), 0.3),
        "one pixel": torch.zeros(1, HEIGHT, WIDTH).index_fill(2, torch.tensor([3]), 1.0),
        "tiny": target * 1e-10,
        "large": target / target.max() * 6e4,
    }[kind]
    points = some_points([6], seed=2)
    for metric in [*MAP_METRICS, lambda p, q: nss(p, points) + nss(q, points)]:
        prediction, truth = maps.to(dtype).requires_grad_(), target.to(dtype).requires_grad_()
        score = metric(prediction, truth)
        score.sum().backward()
        assert score.isfinite().all()
        assert prediction.grad.isfinite().all()
        assert truth.grad.isfinite().all()


def test_the_loss_reaches_the_logits_of_a_prediction_that_is_wrong_everywhere() -> None:
    logits = torch.where(torch.arange(WIDTH) < 8, 30.0, -80.0).expand(1, HEIGHT, WIDTH).clone().requires_grad_()
    target = torch.where(torch.arange(WIDTH) < 8, 0.0, 1.0).expand(1, HEIGHT, WIDTH)
    kld(logits.sigmoid(), target).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., 8:] <= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_float32_gives_what_float64_gives(seed: int) -> None:
    # as a trained network's maps are: a sigmoid from 1 down to 1e-9
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.empty(4, 224, 224, dtype=torch.float64).uniform_(-20, 4, generator=generator).sigmoid()
    target = blur_fixations(some_points([5, 20, 60, 100], seed), 224, 224, 6.65).double()
    points, others = some_points([5, 20, 60, 100], seed), some_points([50, 50, 50, 50], seed + 9)
    for metric in MAP_METRICS:
        expected, found = metric(prediction, target), metric(prediction.float(), target.float())
        assert (expected.dtype, found.dtype) == (torch.float64, torch.float32)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert nss(prediction.float(), points).tolist() == pytest.approx(nss(prediction, points).tolist(), abs=1e-5)
    assert auc_judd(prediction.float(), points).tolist() == pytest.approx(auc_judd(prediction, points).tolist())
    found = shuffled_auc(prediction.float(), points, others).tolist()
    assert found == pytest.approx(shuffled_auc(prediction, points, others).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8])
def test_small_types_are_promoted_to_float32(dtype: torch.dtype) -> None:
    prediction, target = (
        (maps / maps.amax((1, 2), True) * 255).to(dtype) for maps in (some_maps(2, 1), some_maps(2, 2))
    )
    points = some_points([5, 9], seed=3)
    for metric in MAP_METRICS:
        assert metric(prediction, target).dtype == torch.float32
        assert torch.equal(metric(prediction, target), metric(prediction.float(), target.float()))
    assert torch.equal(nss(prediction, points), nss(prediction.float(), points))
    assert torch.equal(auc_judd(prediction, points), auc_judd(prediction.float(), points))


def test_autocast_changes_nothing() -> None:
    prediction, target, points = some_maps(2, 1).float(), some_maps(2, 2).float(), some_points([5, 9], seed=3)
    scores = [metric(prediction, target) for metric in MAP_METRICS]
    scores += [nss(prediction, points), blur_fixations(points, 9, 9, 1.5)]
    with torch.autocast("cpu", torch.bfloat16):
        found = [metric(prediction, target) for metric in MAP_METRICS]
        found += [nss(prediction, points), blur_fixations(points, 9, 9, 1.5)]
    assert all(map(torch.equal, scores, found))


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e38])
def test_float32_maps_may_be_as_small_or_large_as_they_like(scale: float) -> None:
    prediction, target, points = some_maps(1, 1).float(), some_maps(1, 2).float(), some_points([5], seed=3)
    prediction, target = prediction / prediction.max(), target / target.max()
    for metric in MAP_METRICS:
        assert metric(prediction * scale, target * scale).item() == pytest.approx(
            metric(prediction, target).item(), rel=1e-4
        )
    assert nss(prediction * scale, points).item() == pytest.approx(nss(prediction, points).item(), rel=1e-4)


def test_a_small_signal_on_a_large_offset_keeps_its_digits() -> None:
    signal = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (1, 60, 80)) / 2.0**20).float()
    points = some_points([9], seed=3)  # 1 + signal is exact in float32
    assert nss(1 + signal, points).item() == pytest.approx(nss(signal.double(), points).item(), abs=1e-5)


# --- errors


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", MAP_METRICS)
def test_a_map_that_is_not_finite_is_named(metric, value: float) -> None:
    good, bad = some_maps(3, 1), some_maps(3, 2)
    bad[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"prediction: NaN or infinity in the maps of images 1$"):
        metric(bad, good)
    with pytest.raises(ValueError, match=r"target: NaN or infinity in the maps of images 1$"):
        metric(good, bad)
    for of_points in (nss, auc_judd, lambda maps, points: shuffled_auc(maps, points, points)):
        with pytest.raises(ValueError, match=r"prediction: NaN or infinity in the maps of images 1$"):
            of_points(bad, some_points([1, 1, 1], seed=1))


def test_many_bad_maps_are_named_in_short() -> None:
    with pytest.raises(ValueError, match=r"images 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 40 more$"):
        cc(torch.full((50, 2, 2), np.nan), torch.ones(50, 2, 2))


@pytest.mark.parametrize("metric", [kld, sim])
def test_a_distribution_below_0_is_refused(metric) -> None:
    with pytest.raises(ValueError, match=r"prediction: expected non-negative maps, found values below 0 in images 1$"):
        metric(torch.tensor([[[1.0, 2]], [[1, -1]]]), torch.ones(2, 1, 2))


@pytest.mark.parametrize("point", [(np.nan, 0.5), (0.5, np.inf), (-0.01, 0.5), (0.5, 1.01), (320, 240)])
def test_a_point_that_is_not_in_the_frame_is_named(point: tuple[float, float]) -> None:
    good, bad = some_points([2, 0, 3], seed=1), some_points([2, 0, 3], seed=1)
    bad[2][1] = point
    with pytest.raises(ValueError, match=r"^points: expected x, y in \[0, 1\], found .* in images 2$"):
        nss(some_maps(3, 1), bad)
    with pytest.raises(ValueError, match=r"^other_points: expected x, y in \[0, 1\], found .* in images 2$"):
        shuffled_auc(some_maps(3, 1), good, bad)
    with pytest.raises(ValueError, match=r"^points: expected x, y in \[0, 1\]"):
        blur_fixations(bad, 9, 9, 1.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    maps = torch.rand(2, 3, 4)
    with pytest.raises(ValueError, match=r"prediction: expected maps \[B, H, W\], found \[3, 4\]"):
        cc(maps[0], maps)
    with pytest.raises(ValueError, match=r"target: expected maps \[B, H, W\], found \[2, 0, 4\]"):
        kld(maps, maps[:, :0])
    with pytest.raises(ValueError, match="as many predictions as targets, found 2 and 1"):
        sim(maps, maps[:1])
    with pytest.raises(ValueError, match="points: expected one array for each of 2 images, found 1"):
        nss(maps, some_points([3], seed=1))
    with pytest.raises(ValueError, match=r"points: expected \[n, 2 or more\], found \[3, 1\] at image 1"):
        nss(maps, [np.zeros((0, 3)), np.zeros((3, 1))])
    with pytest.raises(ValueError, match="weights: expected one for each point"):
        blur_fixations(np.zeros((3, 2)), 4, 4, 1.0, np.ones(2))
    with pytest.raises(ValueError, match="weights: NaN or infinity"):
        blur_fixations(np.zeros((1, 2)), 4, 4, 1.0, np.array([np.nan]))
    for sigma in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="sigma: expected pixels"):
            blur_fixations(np.zeros((1, 2)), 4, 4, sigma)
    with pytest.raises(ValueError, match="share: expected a share of the frame above 0, found 0"):
        center_prior(3, 4, share=0)
