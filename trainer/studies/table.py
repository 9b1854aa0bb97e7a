"""The rows of Table 1: train the runs that are missing, one after the other, and measure the accuracy of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from common.errors import UserError
from common.launch import default_device
from common.storage.run_folder import RunFolder
from common.text import join_names
from common.training import check_same_settings
from trainer.checkpoint import load_trained
from trainer.config import ADDED_SETTINGS, TrainSettings
from trainer.data.dataset import open_dataset
from trainer.job import CONFIG, prepare_run, run_identity, run_training
from trainer.optim import CLASSIFIER
from trainer.recipes import get_recipe
from trainer.run_log import LAST, RESULT
from trainer.studies.accuracy import measure_accuracy, open_val_folders, read_folder_images
from trainer.studies.config import RecipesSettings, TableSettings
from trainer.studies.paired import default_pairs

MARKDOWN, CSV, JSON, PLOT = "table.md", "table.csv", "table.json", "table.png"
RUNS = "runs"  # folder of the runs
OWN_FILES = (RUNS, CSV, JSON, PLOT)  # may be there without table.md if the study was interrupted
VALIDATION = "validation.json"  # in a run's folder: its accuracy on --val, and the images and checkpoint measured


@dataclass(frozen=True)
class TableRow:
    """One row of the table.

    Attributes:
        recipe: name of the recipe.
        backbone: name of the backbone.
        accuracies: top-1 accuracy in percent of each run, by seed.
        paper: mean and standard error of the accuracy in the paper, in percent; the standard error is None if the paper
            reports the best run. `paper` is None if the paper does not have this row.
        unreadable: reasons why images of --val cannot be read, by name; they are excluded from the accuracies.
    """

    recipe: str
    backbone: str
    accuracies: tuple[float, ...]
    paper: tuple[float, float | None] | None
    unreadable: Mapping[str, str] = field(default_factory=dict)


class _Accuracy(NamedTuple):
    """Top-1 accuracy of a run, as a fraction, and the reasons why images of --val cannot be read, by name."""

    top1: float
    unreadable: Mapping[str, str]


def make_rows(settings: TableSettings) -> list[TableRow]:
    """Train the runs that are missing, and measure the accuracies of all.

    Raises UserError for settings or data that do not fit, before any run is trained.
    """
    runs = list_runs(settings)
    list_pairs(settings, list(runs))
    check_runs(settings, [run for seeds in runs.values() for run in seeds])
    RunFolder(settings.study_folder()).check_content("a table", (MARKDOWN,), OWN_FILES)
    for seeds in runs.values():
        for run in seeds:
            train_if_missing(run)
    return [_measure_row(name, seeds, settings.val) for name, seeds in runs.items()]


def list_runs(settings: RecipesSettings, first_seed: int = 0) -> dict[str, list[TrainSettings]]:
    """Return the settings of the runs of each recipe, one per seed. Raises UserError for an unknown recipe."""
    settings.reject("the table has --recipes and --seeds instead", "recipe", "seed")
    names = list(dict.fromkeys(name.strip() for name in settings.recipes.split(",")))
    seeds = range(first_seed, first_seed + settings.seeds)
    return {name: [_run_settings(settings, name, seed) for seed in seeds] for name in names}


def list_pairs(settings: TableSettings, recipes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of a recipe and its baseline that are compared. Raises UserError for an unknown baseline."""
    baseline = settings.baseline
    if baseline is None:
        return default_pairs(recipes)
    if baseline not in recipes:
        raise UserError(f"--baseline {baseline}: expected one of the recipes of the table, {', '.join(recipes)}")
    return [(recipe, baseline) for recipe in recipes if recipe != baseline]


def check_runs(settings: RecipesSettings, runs: Sequence[TrainSettings]) -> None:
    """Check settings and data of all runs before any is trained. Raises UserError if their probes cannot be compared.

    `runs` are what `list_runs` returns for these settings.
    """
    if settings.probe is False:
        raise UserError("--no-probe: a table compares the accuracy of probes; leave the flag out")
    for run in runs:
        _, data, _ = prepare_run(run)
        if data.classes is None:
            raise UserError(f"a table compares the accuracy of probes: the samples of {data.location} have no classes")
    if settings.val is not None:
        _check_val_folders(settings.val, settings)


def _run_settings(settings: RecipesSettings, name: str, seed: int) -> TrainSettings:
    changes: dict[str, Any] = {"recipe": name, "seed": seed}
    if isinstance(settings, TableSettings) and get_recipe(name).optimizer is CLASSIFIER:
        changes["learning_rate"] = settings.supervised_learning_rate
    if not get_recipe(name).human_data:
        changes |= {"human_data": [], "human_batch_size": None}
    backbone = settings.run_settings(**changes).train_config().backbone  # may be the recipe's default
    folder = f"{settings.study_folder()}/{RUNS}/{name}-{backbone}-seed{seed}"
    return settings.run_settings(**changes, output=folder)


def _check_val_folders(val: str, settings: RecipesSettings) -> None:
    """Raise UserError if the validation images are not of the training data's classes, or none of them can be read."""
    data = open_dataset(settings.data, settings.unfinished)
    if data.classes is None:
        raise UserError(f"--val: the samples of {settings.data} have no classes; leave the flag out")
    images, unreadable = open_val_folders(val, data.class_names()), dict[str, str]()
    if next(read_folder_images(images, data.class_names(), settings.image_size, unreadable), None) is None:
        reasons = [f"{name} ({reason})" for name, reason in unreadable.items()]
        raise UserError(
            f"--val {val}: expected at least one readable image, found {len(reasons):,} unreadable: "
            f"{join_names(reasons, 2)}"
        )


def train_if_missing(run: TrainSettings) -> None:
    """Train a run, or resume it, unless it has a result. Raises UserError if it was started with other settings.

    A run that an earlier version started counts as one with the rules of that version, as it would continue with them.
    """
    folder = RunFolder(run.output_folder())
    saved, is_finished = folder.read_json(CONFIG), folder.read_json(RESULT) is not None
    if is_finished or isinstance(saved, dict):
        check_same_settings(folder.location, ADDED_SETTINGS | (saved or {}), run_identity(*prepare_run(run)))
    if not is_finished:
        run_training(run)


def _measure_row(name: str, runs: list[TrainSettings], val: str | None) -> TableRow:
    backbone = runs[0].train_config().backbone
    measured = [_measure_accuracy(run, val) for run in runs]
    accuracies = tuple(100 * accuracy.top1 for accuracy in measured)
    return TableRow(name, backbone, accuracies, get_recipe(name).paper.get(backbone), measured[0].unreadable)


def _measure_accuracy(run: TrainSettings, val: str | None) -> _Accuracy:
    """Return the top-1 accuracy of a finished run on validation folders, which is saved in the run's folder.

    Without `val` it is the accuracy on the augmented training images of the last epoch.
    """
    folder = RunFolder(run.output_folder())
    if val is None:
        return _Accuracy(float(folder.read_json(RESULT)["probe_accuracy"]), {})
    trained = load_trained(f"{folder.location}/{LAST}")
    assert trained.classes is not None, "make_rows has checked that the data set has classes"
    images = open_val_folders(val, trained.classes)
    identity = {"val": val, "images": images.identity, "checkpoint": trained.sha256}
    saved = folder.read_json(VALIDATION) or {}
    if saved.items() >= identity.items():
        return _Accuracy(float(saved["accuracy"]), saved.get("unreadable", {}))
    device = default_device()
    threads = run.threads_per_worker(device.type)
    unreadable: dict[str, str] = {}
    crops = read_folder_images(images, trained.classes, trained.config.image_size, unreadable, threads)
    accuracy = measure_accuracy(trained.model.to(device), crops, device)
    folder.write_json(VALIDATION, {**identity, "accuracy": accuracy, "unreadable": unreadable})
    return _Accuracy(accuracy, unreadable)
