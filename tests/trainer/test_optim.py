import copy

import numpy as np
import pytest
import torch
from torch import nn

from trainer.model.heads import LinearProbe
from trainer.optim import CLASSIFIER, LARS, SIMCLR, Schedule, parameter_groups, probe_learning_rate


def reference_lars(weights, gradients, learning_rates, momentum, decay):
    """Apply SimCLR's LARS in NumPy and float64; return the weights."""
    buffer = np.zeros_like(weights)
    for gradient, learning_rate in zip(gradients, learning_rates, strict=True):
        gradient = gradient + decay * weights
        norm, gradient_norm = np.linalg.norm(weights), np.linalg.norm(gradient)
        trust = 0.001 * norm / gradient_norm if norm > 0 and gradient_norm > 0 else 1.0
        buffer = momentum * buffer + learning_rate * trust * gradient
        weights = weights - buffer
    return weights


@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("shape", [(4, 3), (5,), (2, 3, 3, 3)])
def test_lars_with_a_changing_learning_rate_equals_the_reference(shape, decay):
    generator = np.random.default_rng(0)
    start, gradients = generator.normal(size=shape), generator.normal(size=(5, *shape))
    learning_rates = [0.5, 1.0, 2.0, 1.0, 0.1]
    weights = nn.Parameter(torch.tensor(start))
    optimizer = LARS([weights], lr=1.0, momentum=0.9, weight_decay=decay)
    for gradient, learning_rate in zip(gradients, learning_rates, strict=True):
        optimizer.param_groups[0]["lr"] = learning_rate
        weights.grad = torch.tensor(gradient)
        optimizer.step()
    expected = reference_lars(start, gradients, learning_rates, 0.9, decay)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(("start", "gradient"), [(np.zeros(3), np.ones(3)), (np.ones(3), np.zeros(3))])
def test_trust_is_1_if_a_norm_is_0(start, gradient):
    weights = nn.Parameter(torch.tensor(start))
    optimizer = LARS([weights], lr=0.5)
    weights.grad = torch.tensor(gradient)
    optimizer.step()
    np.testing.assert_array_equal(weights.detach().numpy(), start - 0.5 * gradient)


def test_lars_without_adaptation_is_sgd_with_momentum():
    ours, theirs = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    lars = LARS([{"params": [ours], "adapt": False, "weight_decay": 0.3}], lr=0.1)
    sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9)
    for step in range(4):
        ours.grad = theirs.grad = torch.arange(4.0) + step
        lars.step()
        sgd.step()
    torch.testing.assert_close(ours, theirs)


def test_biases_norms_and_probes_have_neither_weight_decay_nor_adaptation():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), LinearProbe(4, 2))
    weights, plain, probe = parameter_groups(model, 0.1, (LinearProbe,), 0.5)
    assert [tuple(parameter.shape) for parameter in weights["params"]] == [(4, 3, 3, 3)]
    assert weights["weight_decay"] == 0.1
    assert len(plain["params"]) == 3
    assert [tuple(parameter.shape) for parameter in probe["params"]] == [(2, 4), (2,)]
    assert [(group["weight_decay"], group["adapt"]) for group in (plain, probe)] == [(0.0, False)] * 2
    assert [group["scale"] for group in (weights, plain, probe)] == [1.0, 1.0, 0.5]


def test_lars_continues_identically_from_its_state_dict():
    first, second = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    original, restored = LARS([first], lr=0.1), LARS([second], lr=0.1)
    for _ in range(3):
        first.grad = torch.ones(3, 3)
        original.step()
    restored.load_state_dict(copy.deepcopy(original.state_dict()))
    second.data.copy_(first.data)
    first.grad = second.grad = torch.full((3, 3), 2.0)
    original.step()
    restored.step()
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay"])
def test_negative_hyperparameters_are_rejected(name):
    LARS([nn.Parameter(torch.ones(1))], **{"lr": 0, "momentum": 0, "weight_decay": 0})
    with pytest.raises(ValueError, match=r"expected nothing below 0, found lr .*-1"):
        LARS([nn.Parameter(torch.ones(1))], **{"lr": 1, "momentum": 1, "weight_decay": 1, name: -1})


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_trust_is_a_ratio_of_norms_of_any_size(scale):
    start, gradient = scale * np.ones(3), np.array([0.1, 0.2, -0.3])
    for first, second in ((start, gradient), (gradient, start)):
        weights = nn.Parameter(torch.tensor(first))
        optimizer = LARS([weights], lr=0.5)
        weights.grad = torch.tensor(second)
        optimizer.step()
        expected = reference_lars(first, [second], [0.5], 0.9, 0)
        np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-12)


def test_closure_is_evaluated_with_gradients_and_its_loss_is_returned():
    weights = nn.Parameter(torch.ones(3))
    optimizer = LARS([{"params": [weights], "adapt": False}], lr=0.5)

    def closure():
        loss = 2 * weights.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 6
    assert weights.tolist() == [0, 0, 0]
    assert optimizer.step() is None


def test_parameters_without_a_gradient_are_not_updated():
    frozen, weights = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = LARS([frozen, weights], lr=0.5)
    weights.grad = torch.ones(3)
    optimizer.step()
    assert frozen.tolist() == [1, 1, 1]
    assert weights.tolist() != [1, 1, 1]


def test_groups_without_parameters_and_frozen_parameters_are_omitted():
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False).requires_grad_(False))
    [group] = parameter_groups(model, 0.1)
    assert group == {"params": [model[0].weight], "weight_decay": 0.1, "adapt": True, "scale": 1.0}
    assert [group["scale"] for group in parameter_groups(LinearProbe(4, 2), 0.1, (LinearProbe,))] == [1.0]


def test_schedule_rises_linearly_and_falls_along_a_cosine_to_0():
    schedule = Schedule(peak=2.0, steps=110, warmup_steps=10)
    assert [schedule.learning_rate(step) for step in (0, 4, 9, 10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert [schedule.learning_rate(step) for step in (35, 60, 110)] == pytest.approx([1 + 0.5**0.5, 1.0, 0.0])


def test_learning_rates_scale_with_the_batch_size():
    assert probe_learning_rate(256) == 0.1
    assert probe_learning_rate(1024) == pytest.approx(0.4)
    assert CLASSIFIER.peak_learning_rate(512) == pytest.approx(0.2)
    assert SIMCLR.peak_learning_rate(4096) == pytest.approx(4.8)  # the learning rate of the SimCLR reference
