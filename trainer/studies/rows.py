"""The runs of Table 1, one after the other, and how often each is right."""

import json
from dataclasses import dataclass
from typing import Any

import torch

from common.errors import UserError
from common.run_folder import RunFolder
from common.training import check_same_settings
from trainer.checkpoint import load_trained
from trainer.config import TrainSettings
from trainer.held_out import accuracy, of_folders
from trainer.job import CONFIG, check_run, train_and_keep
from trainer.journal import LAST, RESULT
from trainer.optim import CLASSIFIER
from trainer.recipes import recipe
from trainer.studies.config import TableSettings

VALIDATED = "validation.json"


@dataclass(frozen=True)
class Row:
    """A recipe, its top-1 in % for each seed, and the paper's mean and standard error, where it has them."""

    recipe: str
    backbone: str
    accuracies: tuple[float, ...]
    paper: tuple[float, float | None] | None


def make_rows(settings: TableSettings) -> list[Row]:
    """Train what is missing, all settings checked before; then measure. Raises UserError."""
    runs = runs_of(settings)
    for run in [run for seeds in runs.values() for run in seeds]:
        check_run(run)
    for seeds in runs.values():
        for run in seeds:
            make(run)
    return [
        Row(
            name,
            seeds[0].deciding().backbone,
            tuple(100 * top1(run, settings.val) for run in seeds),
            recipe(name).paper.get(seeds[0].deciding().backbone),
        )
        for name, seeds in runs.items()
    ]


def runs_of(settings: TableSettings) -> dict[str, list[TrainSettings]]:
    """The runs of each recipe. Raises UserError."""
    settings.refuse("the table has --recipes and --seeds", "recipe", "seed")
    names = list(dict.fromkeys(name.strip() for name in settings.recipes.split(",")))
    return {name: [_run(settings, name, seed) for seed in range(settings.seeds)] for name in names}


def _run(settings: TableSettings, name: str, seed: int) -> TrainSettings:
    changes: dict[str, Any] = {"recipe": name, "seed": seed}
    if recipe(name).optimisation is CLASSIFIER:
        changes["learning_rate"] = settings.supervised_learning_rate
    if not recipe(name).human_data:
        changes |= {"human_data": [], "human_batch_size": None}
    run = settings.run(**changes)
    folder = f"{settings.folder()}/runs/{name}-{run.deciding().backbone}-seed{seed}"
    return settings.run(**changes, output=folder)


def make(run: TrainSettings) -> None:
    """Train, unless its result is there. Raises UserError, also where that is of other settings."""
    folder = RunFolder(run.output_folder())
    if not folder.fetch(RESULT).exists():
        train_and_keep(run)
        return
    before, now = json.loads(folder.fetch(CONFIG).read_text()), run.deciding().model_dump(mode="json")
    check_same_settings(folder.location, before, now)


def top1(run: TrainSettings, val: str | None) -> float:
    """Of a finished run, on validation folders, or else on augmented training images in its last epoch."""
    folder = RunFolder(run.output_folder())
    if val is None:
        result = json.loads(folder.fetch(RESULT).read_text())
        if "probe_accuracy" not in result:
            raise UserError(f"{folder.location}: a run without a probe, which a table needs; leave out --no-probe")
        return float(result["probe_accuracy"])
    known = folder.fetch(VALIDATED)
    if known.exists() and (found := json.loads(known.read_text()))["val"] == val:
        return float(found["accuracy"])
    trained = load_trained(f"{folder.location}/{LAST}")
    if trained.classes is None:
        raise UserError(f"{folder.location}: a run without classes; leave out --val and --no-probe")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    examples = of_folders(val, trained.classes, trained.config.image_size, run.threads_per_worker(device.type))
    right = accuracy(trained.model.to(device), examples, device)
    known.write_text(json.dumps({"val": val, "accuracy": right}) + "\n")
    folder.keep(VALIDATED)
    return right
