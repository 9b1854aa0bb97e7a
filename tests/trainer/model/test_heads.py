import numpy as np
import pytest
import torch

from trainer.model.heads import LinearProbe, ProjectionHead


def make_features(images=20, channels=64):
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.rand(images, channels, generator=generator) + torch.arange(channels) / 8


def standardize(values, dimensions=0):
    return (values - values.mean(dimensions, keepdims=True)) / np.sqrt(values.var(dimensions, keepdims=True) + 1e-5)


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_projection_is_a_chain_of_standardized_linear_layers_with_relu_in_between(layers):
    torch.manual_seed(0)
    head, features = ProjectionHead(64, layers).train(), make_features()
    weights = [weight.detach().double().numpy() for weight in head.parameters() if weight.ndim == 2]
    assert len(weights) == layers
    expected = features.double().numpy()
    for number, weight in enumerate(weights):
        expected = standardize(expected @ weight.T)
        if number < layers - 1:
            expected = np.maximum(expected, 0)
    np.testing.assert_allclose(head(features).detach().numpy(), expected, atol=1e-3)


def test_projection_with_group_norm_does_not_depend_on_other_images():
    torch.manual_seed(0)
    head, features = ProjectionHead(64, 3, "group").train(), make_features()
    torch.testing.assert_close(head(features)[4:6], head(features[4:6]), rtol=1e-2, atol=1e-3)
    hidden = features.double().numpy() @ head.layers[0].weight.detach().double().numpy().T
    expected = standardize(hidden.reshape(-1, 32, 2), 2).reshape(-1, 64)
    np.testing.assert_allclose(head.layers[:2](features).detach().numpy(), expected, atol=1e-3)


def test_probe_classifies_standardized_features_and_does_not_train_them():
    torch.manual_seed(0)
    probe, features = LinearProbe(64, 5).train(), make_features().requires_grad_()
    scores = probe(features)
    weight, bias = probe.linear.weight.detach().double().numpy(), probe.linear.bias.detach().double().numpy()
    expected = standardize(features.detach().double().numpy()) @ weight.T + bias
    np.testing.assert_allclose(scores.detach().numpy(), expected, atol=1e-5)
    assert probe.linear.weight.std().item() == pytest.approx(0.01, rel=0.2)
    scores.square().sum().backward()
    assert features.grad is None
    assert probe.linear.weight.grad.any()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_folded_probe_is_a_single_linear_layer_with_the_same_scores(norm):
    torch.manual_seed(0)
    probe, features = LinearProbe(64, 5, norm), make_features()
    for _ in range(3):
        probe.train()(features)  # updates the running statistics
    folded = probe.fold()
    expected = probe.eval()(features)
    torch.testing.assert_close(features @ folded["weight"].T + folded["bias"], expected, rtol=1e-4, atol=1e-5)
