import json
import shutil

import pytest
import torch

from common.errors import UserError
from common.settings import load_settings
from common.training import load_checkpoint
from tests.support.data.datasets import make_dataset
from tests.support.data.people import write_people_csv
from trainer.checkpoint import load_trained
from trainer.config import DEMO, DEMO_CONTRASTIVE_RATE, TrainConfig, TrainSettings
from trainer.job import run_training
from trainer.optim import LARS
from trainer.recipes import PAPER_ROWS, get_recipe, recipe_names
from trainer.run_page.page import NO_MAPS
from trainer.step import Trainer

STEPS = 16  # of a run
CHECKPOINT_STEP = 13  # in the middle of an epoch
LAST_STAGE_RECIPES = ("contrastive-attn-block", "contrastive-self-mask", "contrastive-contracam")
TIMING_KEYS = ("images_per_second", "waited", "memory_gb")
# They have no state that other recipes lack, so they resume as these do.
WITHOUT_STATE_OF_THEIR_OWN = {
    "byol-attn-teacher",
    "contrastive-attn-lowlevel",
    "contrastive-self-mask",
    "supervised-attn-teacher",
    "vicreg",
    "vicreg-attn-teacher",
}
RATES = {"supervised": 0.05, "supervised-attn-teacher": 0.05, "contrastive-attn-permuted": 0.1}  # 0.5 for the others


@pytest.fixture(scope="module")
def discs(tmp_path_factory):
    """Discs of two colors, so large that each crop shows a part of one."""
    return make_dataset(tmp_path_factory.mktemp("discs"), [32, 32], classes=2, radius=0.4)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return write_people_csv(tmp_path_factory.mktemp("people") / "csv", 20)


def make_settings(discs, output, name, people=None, **changes):
    """Return the settings of a small run of a recipe; `changes` are settings that differ."""
    values = {
        "image_size": 40 if name in LAST_STAGE_RECIPES else 32,
        "batch_size": 32,
        "epochs": 8,
        "warmup_epochs": 1,
        "learning_rate": 0.5,
    } | changes
    values |= {
        "data": discs,
        "output": output,
        "recipe": name,
        "backbone": "resnet18",
        "checkpoint_every": CHECKPOINT_STEP,
    }
    if get_recipe(name).human_data and people:
        values |= {"human_data": people, "human_batch_size": 8}
    flags = [f"--{key.replace('_', '-')}" + ("" if value is True else f"={value}") for key, value in values.items()]
    return load_settings(TrainSettings, flags)


def read_metrics(output):
    """Return the lines of a run's metric log without those entries that depend on the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING_KEYS} for line in lines]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in WITHOUT_STATE_OF_THEIR_OWN else [])
        for name in recipe_names()
    ],
)
def test_each_recipe_trains_resumes_exactly_and_loads_again(discs, people, tmp_path, monkeypatch, name):
    train_step = Trainer.train_step

    def copy_run_and_train(self, batch):
        if self.step == CHECKPOINT_STEP and not (tmp_path / "resumed").exists():
            shutil.copytree(tmp_path / "run", tmp_path / "resumed")
        return train_step(self, batch)

    rate = RATES.get(name, 0.5)
    monkeypatch.setattr(Trainer, "train_step", copy_run_and_train)
    run_training(make_settings(discs, tmp_path / "run", name, people, learning_rate=rate))
    means = [line["means"] for line in read_metrics(tmp_path / "run") if "means" in line]
    assert means[-1]["loss"] < 0.9 * means[0]["loss"]
    assert (means[-1]["probe_accuracy"] + means[-2]["probe_accuracy"]) / 2 > 0.6

    page = (tmp_path / "run/index.html").read_text()
    assert all(f", epoch {epoch}: " in page for epoch in range(1, 9))
    has_maps = name != "contrastive-contracam"
    assert (page.count("data:image/png"), NO_MAPS in page) == ((8 * (1 + 5), False) if has_maps else (0, True))

    run_training(make_settings(discs, tmp_path / "resumed", name, people, learning_rate=rate))
    assert read_metrics(tmp_path / "resumed") == read_metrics(tmp_path / "run")
    actual, expected = (load_checkpoint(tmp_path / run / "checkpoints/last") for run in ("resumed", "run"))
    assert actual["step"] == expected["step"] == STEPS
    assert all(torch.equal(actual["model"][key], weights) for key, weights in expected["model"].items())

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
        ("contrastive-attn-permuted", {"batch_size": 2, "workers": 2}, "exchanges the maps .* choose 4 or more"),
        ("supervised", {"no_probe": True}, "--recipe supervised trains a classifier; use a data set with classes"),
    ],
)
def test_unsupported_settings_raise_an_error_before_anything_is_written(discs, tmp_path, name, changes, message):
    with pytest.raises(UserError, match=message):
        run_training(make_settings(discs, tmp_path / "run", name, **changes))
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_human_data_raises_an_error(discs, people, tmp_path):
    settings = make_settings(discs, tmp_path / "run", "contrastive-attn-cotrain", people, epochs=1)
    run_training(settings)
    others = write_people_csv(tmp_path / "people", 8)
    with pytest.raises(UserError, match=r"human_data was .*; human_dataset was"):
        run_training(make_settings(discs, tmp_path / "run", "contrastive-attn-cotrain", others, epochs=1))


def test_second_order_changes_the_update_but_not_the_loss(discs, tmp_path):
    losses = []
    for flags in ({}, {"second_order": True}):
        output = tmp_path / f"run{len(losses)}"
        run_training(make_settings(discs, output, "contrastive-contracam", epochs=1, **flags))
        losses.append([line["loss"] for line in read_metrics(output) if "loss" in line])
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


def test_rows_of_the_table_are_the_recipes_with_figures_of_the_paper():
    assert set(PAPER_ROWS) == {name for name in recipe_names() if get_recipe(name).paper}


@pytest.mark.parametrize(
    ("name", "values", "rate"), [("vicreg", (1000, 2048, 1e-6), 1.6), ("byol", (1000, 4096, 1.5e-6), 3.2)]
)
def test_other_objectives_have_the_settings_of_their_papers(name, values, rate):
    for recipe in (name, f"{name}-attn-teacher"):
        config = load_settings(TrainSettings, ["--data=X", f"--recipe={recipe}"]).train_config()
        assert (config.epochs, config.batch_size, config.weight_decay) == values
        optimizer = get_recipe(recipe).optimizer
        assert optimizer.peak_learning_rate(config.batch_size) == pytest.approx(rate)
        assert optimizer.make is LARS


def test_defaults_of_a_recipe_apply_unless_the_settings_are_given():
    def config(*flags):
        return load_settings(TrainSettings, list(flags)).train_config()

    assert config("--data=X").epochs == 400
    supervised = config("--data=X", "--recipe=supervised")
    assert (supervised.epochs, supervised.warmup_epochs, supervised.weight_decay) == (90, 5, 1e-4)
    given = config("--data=X", "--recipe=supervised", "--epochs=400", "--warmup-epochs=10")
    assert (given.epochs, given.warmup_epochs) == (400, 10)
    demo = config("--recipe=supervised")
    assert (demo.epochs, demo.weight_decay, demo.learning_rate) == (DEMO["epochs"], 1e-4, None)
    assert config().learning_rate == config("--recipe=byol").learning_rate == DEMO_CONTRASTIVE_RATE


def test_supervised_recipe_has_one_view_and_sgd_with_nesterov_momentum():
    recipe = get_recipe("supervised")
    assert len(recipe.views) == 1
    assert recipe.optimizer.peak_learning_rate(1024) == pytest.approx(0.4)
    optimizer = recipe.optimizer.make([{"params": [torch.nn.Parameter(torch.ones(1))]}], 0.4)
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["nesterov"], optimizer.defaults["momentum"]) == (True, 0.9)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("backbone", ["resnet34", "resnet50"])
def test_outputs_of_each_recipe_are_finite_with_larger_backbones(name, backbone):
    model = get_recipe(name).build(TrainConfig(backbone=backbone), 3).train()
    outputs = model([torch.rand(2, 3, 32, 32)] * len(get_recipe(name).views), torch.rand(2, 3, 32, 32))
    assert all(torch.isfinite(value).all() for value in outputs.values())
