import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from common.fixations.maps import blur_fixations
from common.saliency import auc_judd, cc, kld, mean_over_images, nss, shuffled_auc, sim
from tests.support.saliency import (
    HEIGHT,
    WIDTH,
    make_maps,
    make_points,
)

MAP_METRICS = [kld, cc, sim]


@pytest.mark.parametrize("metric", MAP_METRICS)
@pytest.mark.parametrize("size", [(4, 5), (6, 9)])
def test_gradients_of_map_metrics_are_correct(metric, size: tuple[int, int]) -> None:
    prediction, target = make_maps(2, 1, 4, 5).requires_grad_(), make_maps(2, 2, *size).requires_grad_()
    assert gradcheck(lambda p, q: metric(p + 0.1, q + 0.1), (prediction, target))


def test_gradients_of_nss_are_correct_and_0_for_images_without_points() -> None:
    prediction, points = make_maps(3, 1, 4, 5).requires_grad_(), make_points([3, 0, 40], seed=2)
    assert gradcheck(lambda maps: mean_over_images(nss(maps, points)), prediction)
    mean_over_images(nss(prediction, points)).backward()
    assert (prediction.grad[1] == 0).all()
    assert (prediction.grad[[0, 2]] != 0).any(2).any(1).all()


def test_gradients_of_a_batch_without_any_points_are_0() -> None:
    prediction = make_maps(2, seed=1).requires_grad_()
    mean_over_images(nss(prediction, make_points([0, 0], seed=1))).backward()
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["zeros", "constant", "one pixel", "tiny", "large"])
def test_gradients_are_finite_for_extreme_maps(dtype: torch.dtype, kind: str) -> None:
    target = make_maps(1, seed=1)
    target[0, :6] = 0
    maps = {
        "zeros": torch.zeros(1, HEIGHT, WIDTH),
        "constant": torch.full((1, HEIGHT, WIDTH), 0.3),
        "one pixel": torch.zeros(1, HEIGHT, WIDTH).index_fill(2, torch.tensor([3]), 1.0),
        "tiny": target * 1e-10,
        "large": target / target.max() * 6e4,
    }[kind]
    points = make_points([6], seed=2)
    for metric in [*MAP_METRICS, lambda p, q: nss(p, points) + nss(q, points)]:
        prediction, truth = maps.to(dtype).requires_grad_(), target.to(dtype).requires_grad_()
        score = metric(prediction, truth)
        score.sum().backward()
        assert score.isfinite().all()
        assert prediction.grad.isfinite().all()
        assert truth.grad.isfinite().all()


def test_gradient_of_kld_reaches_the_logits_of_a_completely_wrong_prediction() -> None:
    logits = torch.where(torch.arange(WIDTH) < 8, 30.0, -80.0).expand(1, HEIGHT, WIDTH).clone().requires_grad_()
    target = torch.where(torch.arange(WIDTH) < 8, 0.0, 1.0).expand(1, HEIGHT, WIDTH)
    kld(logits.sigmoid(), target).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[..., 8:] <= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_float32_and_float64_agree(seed: int) -> None:
    # like the maps of a trained network: a sigmoid with values from 1 down to 1e-9
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.empty(4, 224, 224, dtype=torch.float64).uniform_(-20, 4, generator=generator).sigmoid()
    target = blur_fixations(make_points([5, 20, 60, 100], seed), 224, 224, 6.65).double()
    points, others = make_points([5, 20, 60, 100], seed), make_points([50, 50, 50, 50], seed + 9)
    for metric in MAP_METRICS:
        expected, found = metric(prediction, target), metric(prediction.float(), target.float())
        assert (expected.dtype, found.dtype) == (torch.float64, torch.float32)
        assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert nss(prediction.float(), points).tolist() == pytest.approx(nss(prediction, points).tolist(), abs=1e-5)
    assert auc_judd(prediction.float(), points).tolist() == pytest.approx(auc_judd(prediction, points).tolist())
    found = shuffled_auc(prediction.float(), points, others).tolist()
    assert found == pytest.approx(shuffled_auc(prediction, points, others).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint8])
def test_integers_and_16_bit_floats_are_promoted_to_float32(dtype: torch.dtype) -> None:
    prediction, target = (
        (maps / maps.amax((1, 2), True) * 255).to(dtype) for maps in (make_maps(2, 1), make_maps(2, 2))
    )
    points = make_points([5, 9], seed=3)
    for metric in MAP_METRICS:
        assert metric(prediction, target).dtype == torch.float32
        assert torch.equal(metric(prediction, target), metric(prediction.float(), target.float()))
    assert torch.equal(nss(prediction, points), nss(prediction.float(), points))
    assert torch.equal(auc_judd(prediction, points), auc_judd(prediction.float(), points))


def test_autocast_changes_nothing() -> None:
    prediction, target, points = make_maps(2, 1).float(), make_maps(2, 2).float(), make_points([5, 9], seed=3)
    scores = [metric(prediction, target) for metric in MAP_METRICS]
    scores += [nss(prediction, points), blur_fixations(points, 9, 9, 1.5)]
    with torch.autocast("cpu", torch.bfloat16):
        found = [metric(prediction, target) for metric in MAP_METRICS]
        found += [nss(prediction, points), blur_fixations(points, 9, 9, 1.5)]
    assert all(map(torch.equal, scores, found))


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e38])
def test_float32_maps_may_have_any_scale(scale: float) -> None:
    prediction, target, points = make_maps(1, 1).float(), make_maps(1, 2).float(), make_points([5], seed=3)
    prediction, target = prediction / prediction.max(), target / target.max()
    for metric in MAP_METRICS:
        assert metric(prediction * scale, target * scale).item() == pytest.approx(
            metric(prediction, target).item(), rel=1e-4
        )
    assert nss(prediction * scale, points).item() == pytest.approx(nss(prediction, points).item(), rel=1e-4)


def test_a_small_signal_on_a_large_offset_loses_no_precision() -> None:
    signal = torch.from_numpy(np.random.default_rng(1).integers(0, 64, (1, 60, 80)) / 2.0**20).float()
    points = make_points([9], seed=3)  # 1 + signal is exact in float32
    assert nss(1 + signal, points).item() == pytest.approx(nss(signal.double(), points).item(), abs=1e-5)
