import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch.nn.functional import interpolate

from common.saliency import cc
from trainer.evaluate.alignment.readout import FitData, fit_readout
from trainer.losses import attention_loss
from trainer.model.attention import AttentionReadout, stack_stage_maps
from trainer.model.backbone import Features

SIDE = 12


def make_features(images: int = 12, seed: int = 0, scale: float = 1.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((6, 5), (3, 4), (2, 3))  # side, channels
    second, third, fourth = (scale * torch.rand(images, c, s, s, generator=generator) for s, c in sizes)
    return Features(fourth.mean((2, 3)), (second, third, fourth))


def make_data(features: Features, noise: float = 0.3) -> FitData:
    """Return data whose target follows the first stage's map, with a gaze point at its maximum and a random one."""
    stage_maps = stack_stage_maps(features, "gap_argmax", (SIDE, SIDE))
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(len(stage_maps), 1, 4, 4, generator=generator)
    signal = stage_maps[:, 0] / stage_maps[:, 0].amax() + noise * interpolate(coarse, (SIDE, SIDE))[:, 0]
    best = signal.flatten(1).argmax(1)
    points = [
        np.array([[(int(i) % SIDE + 0.5) / SIDE, (int(i) // SIDE + 0.5) / SIDE, 1], [0.1 * (int(i) % 9), 0.4, 0.5]])
        for i in best
    ]
    return FitData(stage_maps, signal**3, points)


def test_fit_reaches_the_minimum_that_a_gradient_free_search_finds() -> None:
    data = make_data(make_features())
    maps, targets = data.stage_maps.numpy().astype(np.float64), data.attention.numpy().astype(np.float64)
    q = targets / targets.sum((1, 2), keepdims=True)

    def loss(parameters: np.ndarray) -> float:
        predicted = expit(np.einsum("s,nshw->nhw", parameters[:3], maps) + parameters[3])
        p = predicted / predicted.sum((1, 2), keepdims=True)
        kld = (q * np.log(2.2204e-16 + q / (p + 2.2204e-16))).sum((1, 2)).mean()
        standardized = (predicted - predicted.mean((1, 2), keepdims=True)) / (
            predicted.std((1, 2), keepdims=True) + 1e-12
        )
        nss = [
            m[(points[:, 1] * SIDE).astype(int), (points[:, 0] * SIDE).astype(int)].mean()
            for m, points in zip(standardized, data.gaze, strict=True)
        ]
        return float(kld - 0.1 * np.mean(nss))

    starts = [np.r_[start, -1.0] for start in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 1, 1])]
    oracle = min(
        minimize(loss, start, method="Nelder-Mead", options={"maxiter": 4000, "maxfev": 4000, "fatol": 1e-9}).fun
        for start in starts
    )
    fit = fit_readout(data)
    assert fit.images == 12
    assert fit.loss == pytest.approx(oracle, abs=1e-4)
    assert loss(np.array([*fit.weights, fit.bias])) == pytest.approx(fit.loss, abs=1e-5)


def test_fitted_readout_predicts_with_the_loss_of_the_fit() -> None:
    features = make_features()
    data = make_data(features)
    fit = fit_readout(data)
    readout = fit.make("gap_argmax", torch.device("cpu"))
    predicted = readout(features, (SIDE, SIDE))
    assert attention_loss(predicted, data.attention, data.gaze).loss.item() == pytest.approx(fit.loss, abs=1e-5)


def test_fit_does_not_depend_on_the_scale_of_features() -> None:
    fits = [fit_readout(make_data(make_features(scale=scale))) for scale in (1, 1e-4, 1e4)]
    for scale, fit in zip((1, 1e-4, 1e4), fits, strict=True):
        assert fit.loss == pytest.approx(fits[0].loss, abs=1e-4)
        assert [scale * weight for weight in fit.weights] == pytest.approx(list(fits[0].weights), abs=0.05)


def test_saturated_readout_regains_its_correlation() -> None:
    features = make_features(images=40)
    data = make_data(features, noise=0)
    saturated = AttentionReadout()
    with torch.no_grad():
        saturated.combine.weight.copy_(torch.tensor([4.0, 4.0, 4.0]).view(1, 3, 1, 1))
        saturated.combine.bias.fill_(3.0)
        before = saturated(features, (SIDE, SIDE))
        after = fit_readout(data).make("gap_argmax", torch.device("cpu"))(features, (SIDE, SIDE))
    assert before.mean() > 0.996
    correlations = [cc(maps, data.attention).mean().item() for maps in (before, after)]
    assert correlations[0] < 0.5
    assert correlations[1] > 0.95


def test_constant_features_get_no_weight() -> None:
    data = make_data(make_features())
    stage_maps = data.stage_maps.clone()
    stage_maps[:, 1] = 1e4
    stage_maps[0, 1, 0] += 1e-3  # a rounding error
    fit = fit_readout(data._replace(stage_maps=stage_maps))
    assert fit.weights[1] == 0
    assert fit.weights[0] > 0
    constant = fit_readout(data._replace(stage_maps=torch.full_like(stage_maps, 3.0)))
    assert constant.weights == (0, 0, 0)
    assert np.isfinite(constant.loss)


def test_images_without_gaze_points_count_for_kld_only() -> None:
    data = make_data(make_features())
    fit = fit_readout(data._replace(gaze=[np.empty((0, 3), np.float32)] * 12))
    assert np.isfinite(fit.loss)
    assert fit.weights[0] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    data = make_data(make_features())
    data.stage_maps[3, 1, 2, 2] = value
    with pytest.raises(ValueError, match="expected finite numbers as features, found NaN or infinity"):
        fit_readout(data)
