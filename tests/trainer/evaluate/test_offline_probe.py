import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from common.errors import UserError
from trainer.evaluate.offline_probe import (
    DEFAULT_WEIGHT_DECAY,
    WEIGHT_DECAYS,
    choose_weight_decay,
    draw_held_out,
    fit_linear_probe,
)

CPU = torch.device("cpu")


def random_features(images, seed, classes=6, channels=24, noise=1.2):
    """Return features around class centers that do not depend on the seed, and labels."""
    centers = np.random.default_rng(0).normal(size=(classes, channels))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    vectors = np.maximum(centers[labels] + noise * generator.normal(size=(images, channels)), 0)
    return torch.from_numpy(vectors.astype(np.float32)), torch.from_numpy(labels)


def accuracy(probe, vectors, labels):
    return (probe(vectors).argmax(1) == labels).double().mean().item()


def reference_probe(vectors, labels, classes, epochs, seed, weight_decay):
    """Train the probe as documented, in NumPy and float64; return weight and bias of the raw features."""
    vectors, targets = vectors.astype(np.float64), np.eye(classes)[labels]
    mean, std = vectors.mean(0), vectors.std(0)
    vectors = (vectors - mean) / std
    weight, bias = np.zeros((classes, vectors.shape[1])), np.zeros(classes)
    weight_velocity, bias_velocity = np.zeros_like(weight), np.zeros_like(bias)
    batch_size = min(256, len(vectors))
    steps_per_epoch = len(vectors) // batch_size
    generator = torch.Generator().manual_seed(seed)
    for step in range(epochs * steps_per_epoch):
        if step % steps_per_epoch == 0:
            order = torch.randperm(len(vectors), generator=generator).numpy()
        first = step % steps_per_epoch * batch_size
        chosen = order[first : first + batch_size]
        scores = np.exp(vectors[chosen] @ weight.T + bias)
        errors = (scores / scores.sum(1, keepdims=True) - targets[chosen]) / batch_size
        weight_gradient, bias_gradient = errors.T @ vectors[chosen] + weight_decay * weight, errors.sum(0)
        rate = 0.1 * batch_size / 256 * 0.5 * (1 + np.cos(np.pi * step / (epochs * steps_per_epoch)))
        weight_velocity = 0.9 * weight_velocity + weight_gradient
        bias_velocity = 0.9 * bias_velocity + bias_gradient
        weight -= rate * (weight_gradient + 0.9 * weight_velocity)
        bias -= rate * (bias_gradient + 0.9 * bias_velocity)
    return weight / std, bias - weight @ (mean / std)


@pytest.mark.parametrize(("images", "epochs", "weight_decay"), [(700, 4, 0.1), (256, 3, 0.0), (100, 6, 0.01)])
def test_probe_is_trained_as_documented(images, epochs, weight_decay):
    vectors, labels = random_features(images, 1)
    probe = fit_linear_probe(vectors, labels, 6, epochs, seed=3, device=CPU, weight_decay=weight_decay)
    weight, bias = reference_probe(vectors.numpy(), labels.numpy(), 6, epochs, 3, weight_decay)
    np.testing.assert_allclose(probe.weight.detach().numpy(), weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(probe.bias.detach().numpy(), bias, rtol=1e-3, atol=1e-5)


def test_probe_minimizes_the_loss_that_scikit_learn_does():
    vectors, labels = random_features(256, 1)
    probe = fit_linear_probe(vectors, labels, 6, 300, 0, CPU, weight_decay=0.05)
    scaler = StandardScaler().fit(vectors.numpy())
    expected = LogisticRegression(C=1 / (0.05 * 256), max_iter=5000, tol=1e-8).fit(scaler.transform(vectors), labels)
    np.testing.assert_allclose(probe.weight.detach().numpy() * scaler.scale_, expected.coef_, atol=0.01)


def test_seed_determines_a_probe():
    vectors, labels = random_features(300, 1)
    first, again, other = (fit_linear_probe(vectors, labels, 6, 2, seed, CPU).weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("scale", [0.25, 0.5, 2, 4, 0.3, 1e-6, 1e6])
def test_accuracy_does_not_depend_on_the_scale_of_the_features(scale):
    (vectors, labels), (val, val_labels) = random_features(600, 1, noise=2), random_features(2000, 2, noise=2)
    accuracies, choices = [], []
    for factor in (1, scale):
        choice = choose_weight_decay(factor * vectors, labels, 6, 15, 0, CPU)
        probe = fit_linear_probe(factor * vectors, labels, 6, 15, 0, CPU, weight_decay=choice.weight_decay)
        accuracies.append(accuracy(probe, factor * val, val_labels))
        choices.append(choice)
    assert accuracies[1] == pytest.approx(accuracies[0], abs=0.003)
    assert 0.3 < accuracies[0] < 0.9
    assert choices[0].weight_decay == choices[1].weight_decay


def test_constant_channels_are_ignored():
    vectors, labels = random_features(300, 1)
    constant = torch.tensor([0, 0.1, 1e6]).expand(300, 3)
    probe = fit_linear_probe(torch.cat([vectors, constant], 1), labels, 6, 5, 0, CPU)
    expected = fit_linear_probe(vectors, labels, 6, 5, 0, CPU)
    torch.testing.assert_close(probe.weight[:, :24], expected.weight)
    assert not probe.weight[:, 24:].any()
    torch.testing.assert_close(probe.bias, expected.bias)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused(value):
    vectors, labels = random_features(30, 1)
    vectors[7, 3] = value
    for fit in (fit_linear_probe, choose_weight_decay):
        with pytest.raises(UserError, match="expected finite numbers as features, found NaN or infinity"):
            fit(vectors, labels, 6, 1, 0, CPU)


def test_chosen_weight_decay_has_the_lowest_loss_on_held_out_images():
    vectors, labels = random_features(400, 1, noise=4)
    choice = choose_weight_decay(vectors, labels, 6, 20, 5, CPU)
    held_out = draw_held_out(labels, 5)
    training = torch.tensor(sorted(set(range(400)) - set(held_out.tolist())))
    for value in WEIGHT_DECAYS:
        probe = fit_linear_probe(vectors[training], labels[training], 6, 20, 5, CPU, weight_decay=value)
        loss = torch.nn.functional.cross_entropy(probe(vectors[held_out]), labels[held_out]).item()
        top1 = accuracy(probe, vectors[held_out], labels[held_out])
        assert choice.held_out[value].loss == pytest.approx(loss, rel=1e-3)
        assert choice.held_out[value].top1 == pytest.approx(top1, abs=1.5 / len(held_out))
    assert choice.held_out.keys() == set(WEIGHT_DECAYS)
    assert choice.held_out[choice.weight_decay].loss == min(score.loss for score in choice.held_out.values())


@pytest.mark.parametrize(("noise", "expected"), [(0.1, 1e-6), (8, 1e-1)])
def test_noisy_features_need_more_weight_decay(noise, expected):
    vectors, labels = random_features(400, 1, noise=noise)
    assert choose_weight_decay(vectors, labels, 6, 20, 0, CPU).weight_decay == expected


def test_a_fifth_of_each_class_is_held_out():
    labels = torch.tensor([0] * 500 + [1] * 100 + [2] * 50 + [3])[torch.randperm(651)]
    held_out = draw_held_out(labels, 0)
    assert len(held_out) == len(held_out.unique()) == 130
    counts = torch.bincount(labels[held_out], minlength=4).tolist()
    assert counts == pytest.approx([100, 20, 10, 0], abs=1)
    assert torch.equal(held_out, draw_held_out(labels, 0))
    assert not torch.equal(held_out, draw_held_out(labels, 1))


@pytest.mark.parametrize(
    ("sizes", "count"), [([2, 2], 1), ([1, 1, 2], 1), ([2] * 20, 8), ([1] * 30 + [2], 1), ([1, 1], 0)]
)
def test_every_class_keeps_an_image_for_training(sizes, count):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    for seed in range(5):
        held_out = draw_held_out(labels, seed)
        assert len(held_out) == count
        remaining = torch.tensor(sizes) - torch.bincount(labels[held_out], minlength=len(sizes))
        assert remaining.min() >= 1


def test_default_weight_decay_is_used_if_every_class_has_a_single_image():
    assert choose_weight_decay(torch.eye(3), torch.arange(3), 3, 5, 0, CPU) == (DEFAULT_WEIGHT_DECAY, {})
