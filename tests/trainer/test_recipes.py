import json
import shutil

import pytest
import torch

from common.errors import UserError
from common.settings import load_settings
from common.training import load_checkpoint
from tests.support.datasets import make_dataset
from tests.support.people import make_people
from trainer.checkpoint import load_trained
from trainer.config import DEMO, DEMO_CONTRASTIVE_RATE, TrainSettings
from trainer.job import run_training
from trainer.recipes import get_recipe, recipe_names
from trainer.step import Trainer

STEPS, SNAPSHOT = 16, 13  # of a run, and one in the middle of an epoch
LAST_STAGE = ("contrastive-attn-block", "contrastive-self-mask", "contrastive-contracam")
TIMES = ("images_per_second", "waited", "memory_gb")


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Large discs in two colours, which no crop misses."""
    return make_dataset(tmp_path_factory.mktemp("discs"), [32, 32], classes=2, radius=0.4)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return make_people(tmp_path_factory.mktemp("people") / "csv", 20)


def settings(discs, output, name, people=None, **changes):
    chosen = {
        "image_size": 40 if name in LAST_STAGE else 32,
        "batch_size": 32,
        "epochs": 8,
        "warmup_epochs": 1,
        "learning_rate": 0.5,
    } | changes
    chosen |= {"data": discs, "output": output, "recipe": name, "backbone": "resnet18", "checkpoint_every": SNAPSHOT}
    if get_recipe(name).human_data and people:
        chosen |= {"human_data": people, "human_batch_size": 8}
    flags = [f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}") for key, value in chosen.items()]
    return load_settings(TrainSettings, flags)


def lines(output):
    found = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in found]


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_learns_resumes_exactly_and_gives_its_model_back(discs, people, tmp_path, monkeypatch, name):
    learn = Trainer.train_step

    def remembering(self, batch):
        if self.step == SNAPSHOT and not (tmp_path / "again").exists():
            shutil.copytree(tmp_path / "run", tmp_path / "again")
        return learn(self, batch)

    rate = 0.05 if name.startswith("supervised") else 0.5
    monkeypatch.setattr(Trainer, "train_step", remembering)
    run_training(settings(discs, tmp_path / "run", name, people, learning_rate=rate))
    means = [line["means"] for line in lines(tmp_path / "run") if "means" in line]
    assert means[-1]["loss"] < 0.9 * means[0]["loss"]
    assert (means[-1]["probe_accuracy"] + means[-2]["probe_accuracy"]) / 2 > 0.6

    run_training(settings(discs, tmp_path / "again", name, people, learning_rate=rate))
    assert lines(tmp_path / "again") == lines(tmp_path / "run")
    ours, theirs = (load_checkpoint(tmp_path / run / "checkpoints/last") for run in ("again", "run"))
    assert ours["step"] == theirs["step"] == STEPS
    assert all(torch.equal(ours["model"][key], weights) for key, weights in theirs["model"].items())

    trained = load_trained(str(tmp_path / "run/checkpoints/best"))
    images = torch.rand(2, 3, 32, 32)
    assert trained.model.logits(images).shape == (2, 2)
    assert trained.model.attention(images).shape == (2, 32, 32)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("contrastive-attn-cotrain", {}, "--human-data is needed: contrastive-attn-cotrain trains on human attention"),
        (
            "contrastive",
            {"human_data": "csv:here"},
            "--human-batch-size: contrastive does not train on human attention",
        ),
        ("supervised", {"human_batch_size": 8}, "--human-batch-size: supervised does not train on human attention"),
        ("contrastive-contracam", {"micro_batch": 8}, "--micro-batch: ContraCAM compares all images of a batch"),
        ("contrastive-contracam", {"second_order": True, "compile": True}, "leave out --compile"),
        ("contrastive-contracam", {"second_order": True, "workers": 2}, "use --norm group, or one worker"),
        ("contrastive-attn-block", {"image_size": 32}, r"--image-size 32: .* has a single position up to 32 pixels"),
        ("contrastive-self-mask", {"image_size": 32}, "--image-size 32"),
        ("contrastive-contracam", {"image_size": 32}, "--image-size 32"),
        ("supervised", {"no_probe": True}, "--recipe supervised learns classes; use samples that have them"),
    ],
)
def test_what_a_recipe_cannot_do_is_refused_before_anything_is_written(discs, tmp_path, name, changes, message):
    with pytest.raises(UserError, match=message):
        run_training(settings(discs, tmp_path / "run", name, **changes))
    assert not (tmp_path / "run").exists()


def test_other_human_data_are_refused(discs, people, tmp_path):
    chosen = settings(discs, tmp_path / "run", "contrastive-attn-cotrain", people, epochs=1)
    run_training(chosen)
    others = make_people(tmp_path / "people", 8)
    with pytest.raises(UserError, match=r"human_data was .*; human_dataset was"):
        run_training(settings(discs, tmp_path / "run", "contrastive-attn-cotrain", others, epochs=1))


def test_second_order_learns_another_way(discs, tmp_path):
    losses = []
    for flags in ({}, {"second_order": True}):
        output = tmp_path / f"run{len(losses)}"
        run_training(settings(discs, output, "contrastive-contracam", epochs=1, **flags))
        losses.append([line["loss"] for line in lines(output) if "loss" in line])
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_a_recipes_own_defaults_hold_unless_others_are_given(discs):
    usual = load_settings(TrainSettings, ["--recipe=supervised"]).train_config
    given = load_settings(TrainSettings, ["--data=X", "--recipe=supervised", "--epochs=400", "--warmup-epochs=10"])
    assert load_settings(TrainSettings, ["--data=X"]).train_config().epochs == 400
    found = load_settings(TrainSettings, ["--data=X", "--recipe=supervised"]).train_config()
    assert (found.epochs, found.warmup_epochs, found.weight_decay) == (90, 5, 1e-4)
    assert (given.train_config().epochs, given.train_config().warmup_epochs) == (400, 10)
    assert (usual().epochs, usual().weight_decay, usual().learning_rate) == (DEMO["epochs"], 1e-4, None)
    assert load_settings(TrainSettings, []).train_config().learning_rate == DEMO_CONTRASTIVE_RATE


def test_supervised_views_are_only_cropped_and_flipped_and_sgd_learns_from_them():
    made = get_recipe("supervised")
    assert len(made.views) == 1
    assert made.optimizer.peak_learning_rate(1024) == pytest.approx(0.4)
    optimizer = made.optimizer.make([{"params": [torch.nn.Parameter(torch.ones(1))]}], 0.4)
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["nesterov"], optimizer.defaults["momentum"]) == (True, 0.9)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
def test_each_recipe_works_with_larger_backbones(name, backbone):
    from trainer.config import TrainConfig

    model = get_recipe(name).build(TrainConfig(backbone=backbone), 3).train()
    outputs = model([torch.rand(2, 3, 32, 32)] * len(get_recipe(name).views), torch.rand(2, 3, 32, 32))
    assert all(torch.isfinite(value).all() for value in outputs.values())
