"""Evaluations in the test's own process, and reading of what they write."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from common.settings import load_settings
from tests.support.data.datasets import COLORS, disc_sample
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.job import run_evaluation

CLASSES = 4
FIRST_HELD_OUT = 1000  # index of the first sample that no training data contains
RECIPES = ("contrastive", "contrastive-attn-teacher")
MODEL_NAMES = tuple(f"{recipe} seed 0" for recipe in RECIPES)


def evaluate(checkpoints: list[str], output: Path | str, *flags: str) -> str:
    """Evaluate checkpoints, reading images in this process; return the location of the report."""
    settings = load_settings(EvaluateSettings, [*checkpoints, f"--output={output}", "--readers=0", *flags])
    settings.check()
    return run_evaluation(settings)


def read_results(folder: Path) -> Any:
    """Read results.json; fail the test if it contains NaN or infinity, which JSON does not allow."""
    text = (folder / "results.json").read_text()
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not allowed in JSON"))


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_held_out(folder: Path, images: int) -> Path:
    """Write class folders with `images` held-out images each."""
    for number in range(CLASSES * images):
        path = folder / COLORS[number % CLASSES] / f"{number:03}.jpg"
        path.parent.mkdir(exist_ok=True)
        jpeg = disc_sample(FIRST_HELD_OUT + number, CLASSES).jpeg
        assert jpeg is not None
        path.write_bytes(jpeg)
    return folder


def read_class_folders(folder: Path) -> dict[str, bytes]:
    """Return the contents of images in class folders by relative path."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in folder.rglob("*.jpg")}
