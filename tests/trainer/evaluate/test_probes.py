from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from trainer.evaluate.features import FeatureSet
from trainer.evaluate.neighbors import vote
from trainer.evaluate.offline_probe import choose_weight_decay, fit_linear_probe
from trainer.evaluate.probes import Classifier, Probes

CPU = torch.device("cpu")


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

    def __init__(self, vectors=None, labels=None):
        self.requests = []
        self.vectors = np.tile(np.eye(4, dtype=np.float32), (8, 1)) if vectors is None else vectors
        self.labels = np.tile([0, 1, 2, 0], 8) if labels is None else labels

    def get(self, model, images):
        self.requests.append((model.name, images))
        return FeatureSet(self.vectors, self.labels, np.arange(len(self.labels)), {})


def make_probes(train=None, store=None, kind="both"):
    images = None if train is None else SimpleNamespace(classes=train)
    return Probes(store or Store(), lambda: images, epochs=5, seed=1, device=CPU, kind=kind)


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
    arguments = (torch.from_numpy(store.vectors), torch.from_numpy(store.labels), 3, 5, 1, CPU)
    choice = choose_weight_decay(*arguments)
    expected = fit_linear_probe(*arguments, weight_decay=choice.weight_decay)
    assert torch.equal(classifier.logits.weight, expected.weight)
    assert classifier.details["weight_decay"] == choice.weight_decay
    assert classifier.details["held_out"] == {f"{key:g}": item._asdict() for key, item in choice.held_out.items()}
    assert classifier.notes == []
    assert probes.offline(make_model(outputs=0)) is classifier
    assert probes.offline(make_model(outputs=0, name="other")) is not classifier
    assert [name for name, _ in store.requests] == ["model", "other"]
    assert store.requests[0][1].classes == ["a", "b", "c"]


def test_without_train_there_is_no_offline_probe():
    assert make_probes().offline(make_model()) is None
    assert make_probes().concurrent(make_model(outputs=0), ["a"]) is None


def test_selected_probes_are_those_of_the_kind_that_a_model_has_with_the_concurrent_one_first():
    folders, own, none = ["a", "b", "c"], make_model(), make_model(outputs=0)
    kinds = {
        kind: [
            [probe.kind for probe in make_probes(folders, kind=kind).selected(model, folders)] for model in (own, none)
        ]
        for kind in ("both", "concurrent", "offline")
    }
    assert kinds == {
        "both": [["concurrent", "offline"], ["offline"]],
        "concurrent": [["concurrent"], []],
        "offline": [["offline"], ["offline"]],
    }
    assert [probe.kind for probe in make_probes().selected(own, folders)] == ["concurrent"]


def test_nearest_neighbors_vote_for_the_classes_of_train():
    generator = np.random.default_rng(0)
    store = Store(generator.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3)
    few, all_of_them = make_probes(["b", "a", "c"], store).nearest_neighbors(make_model())
    assert (few.kind, all_of_them.kind, few.classes) == ("knn_20", "knn_200", ["b", "a", "c"])
    bank = torch.nn.functional.normalize(torch.from_numpy(store.vectors))
    queries = torch.randn(5, 4)
    expected = vote(queries, bank, torch.from_numpy(store.labels), 3, (20, 30))
    torch.testing.assert_close(few.logits(queries), expected[20])
    torch.testing.assert_close(all_of_them.logits(queries), expected[30])
    assert make_probes().nearest_neighbors(make_model()) == []


def test_class_without_a_vote_is_not_among_the_first_five():
    """All neighbors of the queries are of class 9, which only the last query is of."""
    names = [str(number) for number in range(10)]
    store = Store(np.tile(np.eye(1, 4, dtype=np.float32), (20, 1)), np.full(20, 9))
    features = FeatureSet(np.tile(np.eye(1, 4, dtype=np.float32), (10, 1)), np.arange(10), np.arange(10), {})
    for classifier in make_probes(names, store).nearest_neighbors(make_model()):
        assert classifier.accuracy(features, names, CPU) == {"top1": 0.1, "top5": 0.1}
    few = make_probes(names[:3], Store(store.vectors, np.full(20, 2))).nearest_neighbors(make_model())[0]
    three = FeatureSet(features.vectors[:3], np.arange(3), np.arange(3), {})
    assert few.accuracy(three, names[:3], CPU) == {"top1": 1 / 3, "top5": 1 / 3}


def test_check_rejects_models_without_a_classifier_and_other_classes():
    with pytest.raises(UserError, match=r"model.pt: has no linear probe of its own; name images with --train"):
        make_probes().check([make_model(["a", "b"]), make_model(outputs=0)], ["a", "b"], "--val")
    with pytest.raises(UserError, match=r"the 3 classes of model's training, found 2 with 1 missing \(z"):
        make_probes().check([make_model(["x", "y", "z"])], ["x", "y"], "--val")
    with pytest.raises(UserError, match=r"the 2 classes of --train, found 3 with 1 unknown \(z"):
        make_probes(["x", "y"]).check([make_model(["x", "y", "z"])], ["x", "y", "z"], "--val")
    make_probes(["x", "y"]).check([make_model(outputs=0)], ["y", "x"], "--val")
    make_probes().check([make_model(["x", "y", "z"])], ["z", "y", "x"], "--val")
    make_probes(["x", "y"], kind="offline").check([make_model(["p", "q", "r"])], ["x", "y"], "--val")


def test_images_of_one_class_are_refused():
    message = r"^--val: expected images of at least two classes, found only cat, which any classifier gets right; name"
    with pytest.raises(UserError, match=message):
        make_probes(["cat"]).check([make_model(outputs=0)], ["cat"], "--val")
    with pytest.raises(UserError, match=message):
        make_probes().check([make_model(["cat"], outputs=1)], ["cat"], "--val")


def test_model_without_a_concurrent_probe_is_omitted_if_another_has_one():
    probes, models = make_probes(kind="concurrent"), [make_model(), make_model(outputs=0, name="other")]
    probes.check(models, ["a", "b", "c"], "--val")
    assert probes.notes(models, ["a", "b", "c"]) == ["other has no concurrent probe: it is not measured."]
    message = (
        r"--probe-kind concurrent: expected a model with a linear probe of its own, found none in other.pt; .*offline"
    )
    with pytest.raises(UserError, match=message):
        probes.check(models[1:], ["a", "b", "c"], "--val")
    fitting = make_probes(train=["a", "b"], kind="concurrent")
    with pytest.raises(UserError, match=r"found none in model.pt, other.pt"):
        fitting.check(models, ["a", "b"], "--val")
    assert fitting.notes(models[:1], ["a", "b"]) == [
        "model knows 3 classes without their names, found 2 class folders: it is not measured."
    ]


def test_constant_features_are_reported():
    probes = make_probes(["a", "b", "c"], Store(np.full((32, 4), 0.1, np.float32), np.tile([0, 1, 2, 2], 8)))
    classifier = probes.offline(make_model())
    assert classifier.logits(torch.full((5, 4), 0.1)).argmax(1).tolist() == [2] * 5
    assert probes.notes([make_model()], ["a", "b", "c"]) == [
        "model: the features of all images of --train are the same, so the offline probe can only predict the most "
        "frequent class."
    ]


def test_classes_of_single_images_are_reported():
    probes = make_probes(["a", "b", "c", "d"], Store(np.eye(4, dtype=np.float32), np.arange(4)))
    classifier = probes.offline(make_model())
    assert classifier.logits(torch.eye(4)).argmax(1).tolist() == [0, 1, 2, 3]
    assert classifier.details == {"weight_decay": 0.01, "held_out": {}}
    assert probes.notes([make_model(outputs=4)], ["a", "b", "c", "d"]) == [
        "model: every class of --train has a single image, so none was held out to choose the weight decay of the "
        "offline probe: it is 0.01."
    ]
