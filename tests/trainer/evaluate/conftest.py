"""Checkpoints of two recipes, data of every kind, and one report of all suites, which the tests share."""

import numpy as np
import pytest

from common.settings import load_settings
from tests.support.data.datasets import make_dataset
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.evaluation import CLASSES, RECIPES, evaluate, write_held_out
from trainer.config import TrainSettings
from trainer.job import run_training


@pytest.fixture(scope="session")
def training_data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("training") / "data", [16], CLASSES)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, training_data):
    """Return checkpoints of two recipes after one step."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in RECIPES:
        flags = ["--backbone=resnet18", "--image-size=32", "--batch-size=16", "--epochs=1", f"--recipe={recipe}"]
        run_training(load_settings(TrainSettings, [f"--data={training_data}", f"--output={folder / recipe}", *flags]))
    return [str(folder / recipe / "checkpoints/best") for recipe in RECIPES]


@pytest.fixture(scope="session")
def val(tmp_path_factory):
    """Return class folders of six images each."""
    return write_held_out(tmp_path_factory.mktemp("val"), images=6)


@pytest.fixture(scope="session")
def human(tmp_path_factory):
    """Return the location of a data set of eight images with fixations."""
    return write_fixation_data(tmp_path_factory.mktemp("human"), random_fixations(images=8))


@pytest.fixture(scope="session")
def cifar_c(tmp_path_factory):
    """Return a folder of CIFAR-10-C with one corruption of twelve images."""
    folder = tmp_path_factory.mktemp("cifar-c")
    np.save(folder / "fog.npy", np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(12) % 3, 5))
    return folder


@pytest.fixture(scope="session")
def report(checkpoints, training_data, val, human, cifar_c, tmp_path_factory):
    """Return the folder of a report of all suites on two checkpoints and a table of another model's scores."""
    folder = tmp_path_factory.mktemp("reports")
    lines = [f"csv:elsewhere,photo{number:02}.jpg,{0.1 * number}\n" for number in range(6)]
    (folder / "other.csv").write_text("data,image,cc\n" + "".join(lines))
    flags = {
        "suite": "linear,imagenet-c,retrieval,alignment",
        "train": training_data,
        "val": val,
        "cifar": write_held_out(tmp_path_factory.mktemp("cifar"), images=4),
        "cifar-c": cifar_c,
        "human-data": human,
        "compare": f"other={folder / 'other.csv'}",
        "queries": 5,
        "corruptions": "fog",
        "severities": "2,5",
        "probe-epochs": 3,
    }
    evaluate(checkpoints, folder / "out", *(f"--{name}={value}" for name, value in flags.items()))
    return folder / "out"
