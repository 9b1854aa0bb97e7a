from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from common.errors import UserError
from trainer.evaluate.features import FeatureSet
from trainer.evaluate.probes import Classifier, Probes, fit_linear_probe

CPU = torch.device("cpu")


def random_features(images, seed, classes=6, channels=24):
    """Return features around class centers that do not depend on the seed."""
    centers = np.random.default_rng(0).normal(size=(classes, channels))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    vectors = np.maximum(centers[labels] + 1.2 * generator.normal(size=(images, channels)), 0)
    return FeatureSet(vectors.astype(np.float32), labels, np.arange(images), {})


def reference_probe(vectors, labels, classes, epochs, seed):
    """Train the offline probe as documented, in NumPy and float64; return weight and bias."""
    vectors, targets = vectors.astype(np.float64), np.eye(classes)[labels]
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
        weight_gradient, bias_gradient = errors.T @ vectors[chosen], errors.sum(0)
        rate = 0.1 * batch_size / 256 * 0.5 * (1 + np.cos(np.pi * step / (epochs * steps_per_epoch)))
        weight_velocity = 0.9 * weight_velocity + weight_gradient
        bias_velocity = 0.9 * bias_velocity + bias_gradient
        weight -= rate * (weight_gradient + 0.9 * weight_velocity)
        bias -= rate * (bias_gradient + 0.9 * bias_velocity)
    return weight, bias


@pytest.mark.parametrize(("images", "epochs"), [(700, 4), (256, 3), (100, 6)])
def test_offline_probe_is_trained_as_documented(images, epochs):
    train = random_features(images, 1)
    vectors, labels = torch.from_numpy(train.vectors), torch.from_numpy(train.labels)
    probe = fit_linear_probe(vectors, labels, 6, epochs, seed=3, device=CPU)
    weight, bias = reference_probe(train.vectors, train.labels, 6, epochs, seed=3)
    np.testing.assert_allclose(probe.weight.detach().numpy(), weight, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(probe.bias.detach().numpy(), bias, rtol=1e-3, atol=1e-5)


def test_offline_probe_is_as_accurate_as_logistic_regression_of_scikit_learn():
    train, val = random_features(1500, 1), random_features(1500, 2)
    probe = fit_linear_probe(torch.from_numpy(train.vectors), torch.from_numpy(train.labels), 6, 40, 0, CPU)
    names = [str(number) for number in range(6)]
    accuracy = Classifier("offline", probe, names, "").accuracy(val, names, CPU)["top1"]
    expected = LogisticRegression(max_iter=2000).fit(train.vectors, train.labels).score(val.vectors, val.labels)
    assert 0.6 < expected < 0.95
    assert accuracy == pytest.approx(expected, abs=0.02)


def test_seed_determines_an_offline_probe():
    train = random_features(300, 1)
    vectors, labels = torch.from_numpy(train.vectors), torch.from_numpy(train.labels)
    first, again, other = (fit_linear_probe(vectors, labels, 6, 2, seed, CPU).weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_classes_are_matched_by_name():
    features = FeatureSet(np.eye(3, dtype=np.float32), np.array([2, 1, 0]), np.arange(3), {})
    classifier = Classifier("offline", nn.Identity(), ["a", "b", "c"], "")
    assert classifier.accuracy(features, ["c", "b", "a"], CPU)["top1"] == 1
    assert classifier.accuracy(features, ["a", "b", "c"], CPU)["top1"] == 1 / 3


def test_top5_counts_the_five_highest_scores():
    scores = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    features = FeatureSet(scores, np.arange(8), np.arange(8), {})
    names = [str(number) for number in range(8)]
    accuracy = Classifier("offline", nn.Identity(), names, "").accuracy(features, names, CPU)
    assert accuracy == {"top1": 1 / 8, "top5": 5 / 8}


def test_equal_scores_give_chance_accuracy():
    names = [str(number) for number in range(10)]
    features = FeatureSet(np.zeros((40, 10), np.float32), np.arange(40) % 10, np.arange(40), {})
    assert Classifier("offline", nn.Identity(), names, "").accuracy(features, names, CPU) == {"top1": 0.1, "top5": 0.5}


def test_ties_are_resolved_as_by_argmax():
    scores = np.random.default_rng(0).integers(0, 3, (200, 8)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 8, 200)
    names = [str(number) for number in range(8)]
    features = FeatureSet(scores, labels, labels, {})
    accuracy = Classifier("offline", nn.Identity(), names, "").accuracy(features, names, CPU)
    highest_five = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert accuracy["top1"] == np.mean(scores.argmax(1) == labels)
    assert accuracy["top5"] == np.mean((highest_five == labels[:, None]).any(1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    features = FeatureSet(np.full((2, 3), value, np.float32), np.zeros(2, int), np.arange(2), {})
    with pytest.raises(UserError, match=r"the offline probe of --train: .* found NaN or infinity"):
        Classifier("offline", nn.Identity(), ["a", "b", "c"], "--train").accuracy(features, ["a", "b", "c"], CPU)


def test_images_are_classified_in_chunks(monkeypatch):
    monkeypatch.setattr("trainer.evaluate.probes.VECTORS_PER_CHUNK", 4)
    rows = []

    def logits(vectors):
        rows.append(len(vectors))
        return vectors

    features = FeatureSet(np.eye(10, dtype=np.float32), np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 0]), np.arange(10), {})
    names = [str(number) for number in range(10)]
    assert Classifier("offline", logits, names, "").accuracy(features, names, CPU)["top1"] == 0.9
    assert rows == [4, 4, 2]


# --- classifiers of models


def make_model(classes=None, outputs=3, name="model"):
    """Return a model whose classifier, if `outputs` is not 0, scores class k by feature k."""
    scores = (lambda vectors: vectors[:, :outputs]) if outputs else lambda vectors: None
    return SimpleNamespace(name=name, location=f"{name}.pt", channels=4, classes=classes, logits_of=scores)


class Store:
    """Features of training images, all of the same model; counts how often they are asked for."""

    def __init__(self):
        self.requests = []

    def get(self, model, images):
        self.requests.append((model.name, images))
        return FeatureSet(np.tile(np.eye(4, dtype=np.float32), (8, 1)), np.tile([0, 1, 2, 0], 8), np.arange(32), {})


def make_probes(train=None, store=None):
    images = None if train is None else SimpleNamespace(classes=train)
    return Probes(store or Store(), lambda: images, epochs=5, seed=1, device=CPU)


def test_concurrent_classifier_has_the_classes_of_the_training():
    classifier = make_probes().concurrent(make_model(["x", "y", "z"]), ["a", "b"])
    assert (classifier.kind, classifier.classes) == ("concurrent", ["x", "y", "z"])
    assert classifier.source == "model's training"
    assert classifier.logits(torch.eye(4)).shape == (4, 3)


def test_concurrent_classifier_without_class_names_takes_as_many_class_folders_in_order():
    assert make_probes().concurrent(make_model(), ["a", "b", "c"]).classes == ["a", "b", "c"]


def test_classifier_without_class_names_that_does_not_fit_needs_an_offline_probe():
    message = r"model.pt: knows 3 classes without their names, found 2 class folders; expected as many, .* --train"
    with pytest.raises(UserError, match=message):
        make_probes().concurrent(make_model(), ["a", "b"])
    probes = make_probes(train=["a", "b"])
    assert probes.concurrent(make_model(), ["a", "b"]) is None
    models = [make_model(), make_model(outputs=2, name="other"), make_model(["x", "y", "z"]), make_model(outputs=0)]
    assert probes.notes(models, ["a", "b"]) == [
        "model knows 3 classes without their names, found 2 class folders: only an offline probe is measured."
    ]


def test_offline_probe_is_trained_once_on_the_features_of_train():
    store = Store()
    probes = make_probes(["a", "b", "c"], store)
    classifier = probes.offline(make_model(outputs=0))
    assert (classifier.kind, classifier.classes, classifier.source) == ("offline", ["a", "b", "c"], "model on --train")
    features = store.get(make_model(), None)
    expected = fit_linear_probe(torch.from_numpy(features.vectors), torch.from_numpy(features.labels), 3, 5, 1, CPU)
    assert torch.equal(classifier.logits.weight, expected.weight)
    assert probes.offline(make_model(outputs=0)) is classifier
    assert probes.offline(make_model(outputs=0, name="other")) is not classifier
    assert [name for name, _ in store.requests] == ["model", "model", "other"]
    assert store.requests[0][1].classes == ["a", "b", "c"]


def test_without_train_there_is_no_offline_probe():
    assert make_probes().offline(make_model()) is None
    assert make_probes().concurrent(make_model(outputs=0), ["a"]) is None


def test_concurrent_classifier_is_preferred_to_an_offline_one():
    probes = make_probes(["a", "b", "c"])
    assert probes.concurrent_or_offline(make_model(), ["a", "b", "c"]).kind == "concurrent"
    assert probes.concurrent_or_offline(make_model(outputs=0), ["a", "b", "c"]).kind == "offline"


def test_check_rejects_models_without_a_classifier_and_other_classes():
    with pytest.raises(UserError, match=r"model.pt: has no linear probe of its own; name images with --train"):
        make_probes().check(make_model(outputs=0), ["a"], "--val")
    with pytest.raises(UserError, match=r"the 3 classes of model's training, found 2 with 1 missing \(z"):
        make_probes().check(make_model(["x", "y", "z"]), ["x", "y"], "--val")
    with pytest.raises(UserError, match=r"the 2 classes of --train, found 3 with 1 unknown \(z"):
        make_probes(["x", "y"]).check(make_model(["x", "y", "z"]), ["x", "y", "z"], "--val")
    make_probes(["x", "y"]).check(make_model(outputs=0), ["y", "x"], "--val")
    make_probes().check(make_model(["x", "y", "z"]), ["z", "y", "x"], "--val")
