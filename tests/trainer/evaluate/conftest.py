"""Two small checkpoints, and pictures of the classes that they know."""

from pathlib import Path

import pytest

from common.settings import load_settings
from tests.support.datasets import COLORS, disc_sample, make_dataset
from trainer.config import TrainSettings
from trainer.job import run_training

CLASSES = 4
FIRST_HELD_OUT = 1000  # samples from here on are in no training data


@pytest.fixture(scope="session")
def training_data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("training") / "data", [16], CLASSES)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, training_data):
    """Of two recipes, hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("contrastive", "contrastive-attn-teacher"):
        flags = ["--backbone=resnet18", "--image-size=32", "--batch-size=16", "--epochs=1", f"--recipe={recipe}"]
        run_training(load_settings(TrainSettings, [f"--data={training_data}", f"--output={folder / recipe}", *flags]))
    return [str(folder / recipe / "checkpoints/best") for recipe in ("contrastive", "contrastive-attn-teacher")]


@pytest.fixture(scope="session")
def val(tmp_path_factory):
    """Class folders of six pictures each."""
    return val_folder(tmp_path_factory.mktemp("val"), images=6)


def val_folder(folder: Path, images: int) -> Path:
    for number in range(CLASSES * images):
        path = folder / COLORS[number % CLASSES] / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(disc_sample(FIRST_HELD_OUT + number, CLASSES).jpeg)
    return folder
