import copy

import numpy as np
import pytest
import torch
from torch import nn

from trainer.model.heads import LinearProbe
from trainer.optim import LARS, parameter_groups


def transcription(weights, gradients, rates, momentum, decay):
    """SimCLR's LARS in numpy, float64."""
    buffer = np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + decay * weights
        norm, slope = np.linalg.norm(weights), np.linalg.norm(gradient)
        trust = 0.001 * norm / slope if norm > 0 and slope > 0 else 1.0
        buffer = momentum * buffer + rate * trust * gradient
        weights = weights - buffer
    return weights


@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("shape", [(4, 3), (5,), (2, 3, 3, 3)])
def test_five_steps_with_a_changing_rate_equal_the_transcription(shape, decay):
    generator = np.random.default_rng(0)
    start, gradients = generator.normal(size=shape), generator.normal(size=(5, *shape))
    rates = [0.5, 1.0, 2.0, 1.0, 0.1]
    weights = nn.Parameter(torch.tensor(start))
    optimizer = LARS([weights], lr=1.0, momentum=0.9, weight_decay=decay)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    expected = transcription(start, gradients, rates, 0.9, decay)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("start", "gradient"), [(np.zeros(3), np.ones(3)), (np.ones(3), np.zeros(3))])
def test_the_trust_is_1_where_a_norm_is_0(start, gradient):
    weights = nn.Parameter(torch.tensor(start))
    optimizer = LARS([weights], lr=0.5)
    weights.grad = torch.tensor(gradient)
    optimizer.step()
    np.testing.assert_array_equal(weights.detach().numpy(), start - 0.5 * gradient)


def test_a_group_that_does_not_adapt_is_momentum_sgd():
    ours, theirs = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    lars = LARS([{"params": [ours], "adapt": False, "weight_decay": 0.3}], lr=0.1)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for step in range(4):
        ours.grad = theirs.grad = torch.arange(4.0) + step
        lars.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs)


def test_biases_norms_and_probes_neither_decay_nor_adapt():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), LinearProbe(4, 2))
    weights, plain, probe = parameter_groups(model, 0.1, probe_scale=0.5)
    assert [tuple(one.shape) for one in weights["params"]] == [(4, 3, 3, 3)]
    assert weights["weight_decay"] == 0.1
    assert len(plain["params"]) == 3
    assert [tuple(one.shape) for one in probe["params"]] == [(2, 4), (2,)]
    assert [(group["weight_decay"], group["adapt"]) for group in (plain, probe)] == [(0.0, False)] * 2
    assert [group["scale"] for group in (weights, plain, probe)] == [1.0, 1.0, 0.5]


def test_the_state_comes_back_from_a_checkpoint():
    first, second = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    before, after = LARS([first], lr=0.1), LARS([second], lr=0.1)
    for _ in range(3):
        first.grad = torch.ones(3, 3)
        before.step()
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    second.data.copy_(first.data)
    first.grad = second.grad = torch.full((3, 3), 2.0)
    before.step()
    after.step()
    assert torch.equal(first, second)


def test_negative_settings_are_refused():
    with pytest.raises(ValueError, match="expected nothing below 0"):
        LARS([nn.Parameter(torch.ones(1))], lr=-1)
