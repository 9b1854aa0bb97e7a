import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.stats import mannwhitneyu

from common.fixations.maps import blur_fixations
from common.saliency import auc_judd, cc, is_constant, kld, nss, resize_map, score_map, shuffled_auc, sim
from tests.support.saliency import (
    HEIGHT,
    WIDTH,
    distinct_points,
    make_maps,
    make_points,
    pixel_centers,
    point_values,
    to_batch,
    to_pixels,
)

PYSALIENCY = {
    "kld": 2.4736167231369857,
    "cc": 0.04127496297947034,
    "sim": 0.6216335753088795,
    "nss": -0.19458732028674433,
    "auc_judd": 0.4333579881656805,
    "shuffled_auc": 0.425,
}


# The benchmark's MATLAB files, ported to numpy, for one float64 map. `rows` and `columns` are the fixated pixels.
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
    """AUC_Judd.m without its jitter. Valid for maps without ties and for pixels that are fixated at most once."""
    fixated = np.zeros(prediction.shape, bool)
    fixated[rows, columns] = True
    thresholds = np.sort(prediction[fixated])[::-1]
    hits, false_alarms = [0.0], [0.0]
    for i, threshold in enumerate(thresholds, start=1):
        above = (prediction >= threshold).sum()
        hits.append(i / len(thresholds))
        false_alarms.append((above - i) / (prediction.size - len(thresholds)))
    return np.trapezoid([*hits, 1], [*false_alarms, 1])


@pytest.mark.parametrize(("metric", "oracle"), [(kld, matlab_kld), (cc, matlab_cc)])
@pytest.mark.parametrize("seed", range(3))
def test_kld_and_cc_equal_the_benchmarks(metric, oracle, seed: int) -> None:
    prediction, target = make_maps(6, seed), make_maps(6, seed + 100)
    expected = [oracle(p, q) for p, q in zip(prediction.numpy(), target.numpy(), strict=True)]
    assert metric(prediction, target).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_sim_equals_the_benchmarks_for_maps_with_minimum_0(seed: int) -> None:
    prediction, target = (maps - maps.amin((1, 2), True) for maps in (make_maps(6, seed), make_maps(6, seed + 100)))
    expected = [matlab_sim(p, q) for p, q in zip(prediction.numpy(), target.numpy(), strict=True)]
    assert sim(prediction, target).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_nss_equals_the_benchmarks(seed: int) -> None:
    prediction, points = make_maps(4, seed), make_points([1, 5, 300, 20], seed, columns=3)
    expected = [matlab_nss(p, *to_pixels(xy)) for p, xy in zip(prediction.numpy(), points, strict=True)]
    assert nss(prediction, points).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_auc_judd_equals_the_benchmarks(seed: int) -> None:
    prediction, points = make_maps(3, seed), [distinct_points(count, seed) for count in (1, 7, 60)]
    expected = [matlab_auc_judd(p, *to_pixels(xy)) for p, xy in zip(prediction.numpy(), points, strict=True)]
    assert auc_judd(prediction, points).tolist() == pytest.approx(expected, abs=1e-9)


def test_metrics_reproduce_pysaliency() -> None:
    # Computed by pysaliency 0.2.22: MIT_KLDiv, CC, SIM, mean of NSS, general_roc(fixated, unfixated, judd=1), and
    # general_roc of the fixated pixels against those of other images. The values 0 to 7 give many ties, and some pixels
    # are fixated twice.
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    prediction, target = to_batch((3.0 * x + 5 * y + x * y) % 8), to_batch((x * x + 2.0 * y) % 7)
    steps = np.arange(40)
    points, others = (
        [pixel_centers(steps * 5 % 7, steps * 3 % 5)],
        [pixel_centers(steps * 7 % HEIGHT, steps * 2 % WIDTH)],
    )
    assert kld(prediction, target).item() == pytest.approx(PYSALIENCY["kld"], abs=1e-9)
    assert cc(prediction, target).item() == pytest.approx(PYSALIENCY["cc"], abs=1e-9)
    assert sim(prediction, target).item() == pytest.approx(PYSALIENCY["sim"], abs=1e-9)
    assert nss(prediction, points).item() == pytest.approx(PYSALIENCY["nss"], abs=1e-9)
    assert auc_judd(prediction, points).item() == pytest.approx(PYSALIENCY["auc_judd"], abs=1e-9)
    assert shuffled_auc(prediction, points, others).item() == pytest.approx(PYSALIENCY["shuffled_auc"], abs=1e-9)


@given(arrays(np.float64, (HEIGHT, WIDTH), elements=st.integers(0, 4)), point_values, point_values)
def test_shuffled_auc_is_the_normalized_mann_whitney_u(values, points, others) -> None:
    fixated, negatives = values[to_pixels(points * 0.999)], values[to_pixels(others * 0.999)]
    expected = mannwhitneyu(fixated, negatives).statistic / (len(fixated) * len(negatives))
    found = shuffled_auc(to_batch(values), [points * 0.999], [others * 0.999])
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_thresholds_of_auc_judd_include_equal_values() -> None:
    # fixated values 3, 1 and others 3, 2, 1, 0 give the curve (0, 0), (1/4, 1/2), (3/4, 1), (1, 1)
    values = torch.tensor([[[3.0, 1, 3, 2, 1, 0]]])
    points = [pixel_centers(np.array([0, 0]), np.array([0, 1]), 1, 6)]
    assert auc_judd(values, points).item() == pytest.approx(1 / 16 + 3 / 8 + 1 / 4)


def test_auc_judd_is_the_limit_of_the_benchmarks_jitter() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 5, (HEIGHT, WIDTH)).astype(float)
    points = distinct_points(60, seed=2)
    jittered = [
        matlab_auc_judd(values + generator.uniform(0, 1e-7, values.shape), *to_pixels(points)) for _ in range(50)
    ]
    assert auc_judd(to_batch(values), [points]).item() == pytest.approx(np.mean(jittered), abs=1 / 60)


def test_repeated_points_count_repeatedly() -> None:
    prediction = make_maps(1, seed=3)
    first, second = distinct_points(2, seed=4)
    repeated = [np.stack([first, first, first, second])]
    separate = [nss(prediction, [point[None]]).item() for point in (first, second)]
    assert nss(prediction, repeated).item() == pytest.approx(0.75 * separate[0] + 0.25 * separate[1])
    assert auc_judd(prediction, repeated) != auc_judd(prediction, [np.stack([first, second])])
    negatives = [distinct_points(20, seed=5)]
    areas = [shuffled_auc(prediction, [point[None]], negatives).item() for point in (first, second)]
    assert shuffled_auc(prediction, repeated, negatives).item() == pytest.approx(0.75 * areas[0] + 0.25 * areas[1])


@pytest.mark.parametrize(
    ("x", "y", "row", "column"),
    [(0, 0, 0, 0), (1, 1, 3, 4), (0.2, 0.25, 1, 1), (0.1999, 0.2499, 0, 0), (0.999, 0.5, 2, 4), (1, 0, 0, 4)],
)
def test_a_point_lies_in_the_pixel_that_covers_it(x: float, y: float, row: int, column: int) -> None:
    fixated = blur_fixations(np.array([[x, y]]), 4, 5, sigma=0)
    assert fixated.nonzero().tolist() == [[row, column]]
    assert nss(fixated[None], [torch.tensor([[x, y]])]).item() == pytest.approx(np.sqrt(19))


def test_prediction_is_resized_to_the_size_of_the_target() -> None:
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 48, 64)
    small = ramp.unflatten(1, (12, 4)).unflatten(3, (16, 4)).mean((2, 4))  # averaging a ramp gives a ramp
    assert cc(ramp, small).item() == pytest.approx(1, abs=1e-3)
    assert cc(small, ramp).item() == pytest.approx(1, abs=1e-3)
    assert kld(small, ramp).item() == pytest.approx(0, abs=1e-3)
    assert sim(small, ramp).item() == pytest.approx(1, abs=1e-2)


def test_shrinking_a_prediction_averages_its_pixels() -> None:
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2)[None].double()
    assert sim(checkerboard, torch.ones(1, 8, 8)).item() > 0.98


@pytest.mark.parametrize("size", [(5, 6), (30, 41), (12, 17), (7, 40), (12, 40), (30, 17)])
def test_maps_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    attention = make_maps(1, seed=1)[0].float()
    attention = attention / attention.max()
    expected = np.asarray(Image.fromarray(attention.numpy()).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resize_map(attention, size).numpy(), expected, atol=1e-5)
    target = make_maps(1, seed=2, height=size[0], width=size[1])
    assert cc(attention[None], target).item() == pytest.approx(matlab_cc(expected, target[0].numpy()), abs=1e-5)


def test_resizing_a_constant_map_leaves_it_exactly_constant() -> None:
    constant = torch.full((7, 9), 0.1)
    resized = resize_map(constant, (300, 333))
    assert resized.shape == (300, 333)
    assert (resized == 0.1).all()
    assert is_constant(resized)
    assert not is_constant(torch.tensor([[1.0, 1.0], [1.0, 1.0 + 2**-23]]))


def test_score_map_computes_each_metric() -> None:
    prediction, target = make_maps(1, seed=1)[0], make_maps(1, seed=2)[0]
    fixations, others = distinct_points(7, seed=3), distinct_points(9, seed=4)
    p, q, pixels = prediction.numpy(), target.numpy(), to_pixels(fixations)
    expected = {
        "cc": matlab_cc(p, q),
        "kld": matlab_kld(p, q),
        "nss": matlab_nss(p, *pixels),
        "sim": np.minimum(p / p.sum(), q / q.sum()).sum(),
        "auc_judd": matlab_auc_judd(p, *pixels),
    }
    assert score_map(prediction, target, fixations) == pytest.approx(expected)
    expected["shuffled_auc"] = mannwhitneyu(p[pixels], p[to_pixels(others)]).statistic / (7 * 9)
    scores = score_map(prediction, target, fixations, others)
    assert scores == pytest.approx(expected)
    assert all(type(score) is float for score in scores.values())


def test_score_map_resizes_the_prediction_to_the_size_of_the_target() -> None:
    prediction, target, fixations = make_maps(1, 1, 6, 8)[0], make_maps(1, seed=2)[0], distinct_points(7, seed=3)
    expected = score_map(resize_map(prediction, (HEIGHT, WIDTH)), target, fixations, fixations)
    assert score_map(prediction, target, fixations, fixations) == expected
