import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from common.errors import UserError
from trainer.evaluate.features import FeatureSet
from trainer.evaluate.probes import Classifier, fit_linear_probe

CPU = torch.device("cpu")


def made_up(images, seed, classes=6, channels=24):
    centres = np.random.default_rng(0).normal(size=(classes, channels))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    rows = np.maximum(centres[labels] + 1.2 * generator.normal(size=(images, channels)), 0)
    return FeatureSet(rows.astype(np.float32), labels, np.arange(images), {})


def test_an_offline_probe_is_as_often_right_as_scikit_learns_logistic_regression():
    train, val = made_up(1500, 1), made_up(1500, 2)
    probe = fit_linear_probe(torch.from_numpy(train.rows), torch.from_numpy(train.labels), 6, 40, 0, CPU)
    names = [str(number) for number in range(6)]
    mine = Classifier("offline", probe, names, "").accuracy(val, names, CPU)["top1"]
    theirs = LogisticRegression(max_iter=2000).fit(train.rows, train.labels).score(val.rows, val.labels)
    assert 0.6 < theirs < 0.95
    assert mine == pytest.approx(theirs, abs=0.02)


def test_the_seed_decides_an_offline_probe():
    train = made_up(300, 1)
    rows, labels = torch.from_numpy(train.rows), torch.from_numpy(train.labels)
    first, again, other = (fit_linear_probe(rows, labels, 6, 2, seed, CPU).weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_classes_are_matched_by_name_whatever_their_order():
    eye = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        eye.weight.copy_(torch.eye(3))
    found = FeatureSet(np.eye(3, dtype=np.float32), np.array([2, 1, 0]), np.arange(3), {})
    assert Classifier("offline", eye, ["a", "b", "c"], "").accuracy(found, ["c", "b", "a"], CPU)["top1"] == 1
    assert Classifier("offline", eye, ["a", "b", "c"], "").accuracy(found, ["a", "b", "c"], CPU)["top1"] == 1 / 3


def test_top5_counts_the_five_highest():
    scores = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    found = FeatureSet(scores, np.arange(8), np.arange(8), {})
    names = [str(number) for number in range(8)]
    assert Classifier("offline", nn.Identity(), names, "").accuracy(found, names, CPU) == {"top1": 1 / 8, "top5": 5 / 8}


def test_scores_that_are_all_alike_are_right_by_chance():
    names = [str(number) for number in range(10)]
    found = FeatureSet(np.zeros((40, 10), np.float32), np.arange(40) % 10, np.arange(40), {})
    assert Classifier("offline", nn.Identity(), names, "").accuracy(found, names, CPU) == {"top1": 0.1, "top5": 0.5}


def test_of_scores_that_tie_argmax_chooses():
    scores = np.random.default_rng(0).integers(0, 3, (200, 8)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 8, 200)
    names = [str(number) for number in range(8)]
    found = Classifier("offline", nn.Identity(), names, "").accuracy(FeatureSet(scores, labels, labels, {}), names, CPU)
    first = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    assert found["top1"] == np.mean(scores.argmax(1) == labels)
    assert found["top5"] == np.mean((first == labels[:, None]).any(1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(value):
    found = FeatureSet(np.full((2, 3), value, np.float32), np.zeros(2, int), np.arange(2), {})
    with pytest.raises(UserError, match=r"the offline probe of --train: .* found NaN or infinity"):
        Classifier("offline", nn.Identity(), ["a", "b", "c"], "--train").accuracy(found, ["a", "b", "c"], CPU)
