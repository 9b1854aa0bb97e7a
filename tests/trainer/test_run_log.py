import json

import pytest
import torch

from common.launch import Rank
from common.settings import load_settings
from common.training import load_checkpoint
from tests.support.data.datasets import make_dataset
from tests.support.stops import run_until_file_exceeds, stopped_before
from trainer.config import TrainSettings
from trainer.data.dataset import open_dataset
from trainer.loop import train
from trainer.step import Trainer

SINGLE_RANK = Rank(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("discs"), [8])


def train_epochs(discs, output, metric, values):
    """Train an epoch of one step per value; each value replaces the mean of a metric after its epoch.

    Returns the weights of the first convolution after each epoch.
    """
    weights = []

    def replace_metric(epoch, model):
        weights.append(model.backbone.resnet.conv1.weight.detach().clone())
        return {metric: values[epoch - 1]}

    small = ["--backbone=resnet18", "--image-size=32", "--batch-size=8", "--learning-rate=1", "--warmup-epochs=0"]
    flags = [f"--data={discs}", f"--output={output}", f"--epochs={len(values)}", *small]
    flags += ["--no-probe"] if metric == "loss" else []
    train(load_settings(TrainSettings, flags), open_dataset(str(discs)), str(output), SINGLE_RANK, replace_metric)
    return weights


@pytest.mark.parametrize(("metric", "values"), [("probe_accuracy", [0.3, 0.7, 0.2]), ("loss", [5.0, 2.0, 8.0])])
def test_best_checkpoint_has_the_highest_probe_accuracy_or_without_a_probe_the_lowest_loss(
    discs, tmp_path, metric, values
):
    weights = train_epochs(discs, tmp_path, metric, values)
    best, last = (load_checkpoint(tmp_path / "checkpoints" / name) for name in ("best", "last"))
    assert (best["step"], last["step"]) == (2, 3)
    assert torch.equal(best["model"]["backbone.resnet.conv1.weight"], weights[1])
    assert torch.equal(last["model"]["backbone.resnet.conv1.weight"], weights[2])
    assert not torch.equal(weights[1], weights[2])


def test_resumed_run_remembers_the_best_epoch(discs, tmp_path, monkeypatch):
    values = [0.7, 0.5, 0.6]
    with stopped_before(1, Trainer, monkeypatch):
        train_epochs(discs, tmp_path, "probe_accuracy", values)
    train_epochs(discs, tmp_path, "probe_accuracy", values)
    assert load_checkpoint(tmp_path / "checkpoints/best")["step"] == 1
    assert json.loads((tmp_path / "result.json").read_text())["probe_accuracy"] == 0.6


@pytest.mark.parametrize(("killed_within", "values"), [("best", [0.3, 0.7, 0.5]), ("last", [0.7, 0.3, 0.5])])
def test_run_that_dies_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    discs, tmp_path, monkeypatch, killed_within, values
):
    checkpoints = tmp_path / "checkpoints"
    with stopped_before(1, Trainer, monkeypatch):
        train_epochs(discs, tmp_path, "probe_accuracy", values)
    before = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    assert before.keys() == {"last", "best"}
    size = len(before["last"]) // 2
    run_until_file_exceeds(size, train_epochs, discs, tmp_path, "probe_accuracy", values)
    after = {path.name: path.read_bytes() for path in checkpoints.iterdir()}
    assert {name: after[name] for name in before} == before
    [(name, unfinished)] = [(name, content) for name, content in after.items() if name not in before]
    assert name.startswith(killed_within)
    assert len(unfinished) == size
    weights = train_epochs(discs, tmp_path, "probe_accuracy", values)
    assert len(weights) == 2, "epoch 1 was trained before"
    best, last = (load_checkpoint(checkpoints / name) for name in ("best", "last"))
    assert (best["step"], last["step"]) == (1 + values.index(max(values)), 3)
