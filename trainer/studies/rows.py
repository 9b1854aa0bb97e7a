"""The runs of Table 1, one after the other, and how often each is right."""

from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from common.launch import default_device
from common.storage.run_folder import RunFolder
from common.training import check_same_settings
from trainer.checkpoint import load_trained
from trainer.config import TrainSettings
from trainer.data.dataset import open_dataset
from trainer.job import CONFIG, prepare_run, run_identity, run_training
from trainer.optim import CLASSIFIER
from trainer.recipes import get_recipe
from trainer.run_log import LAST, RESULT
from trainer.studies.config import TableSettings
from trainer.studies.held_out import measure_accuracy, open_val_folders, read_folder_images

VALIDATED = "validation.json"


@dataclass(frozen=True)
class TableRow:
    """A recipe, its top-1 in % for each seed, and the paper's mean and standard error, where it has them."""

    recipe: str
    backbone: str
    accuracies: tuple[float, ...]
    paper: tuple[float, float | None] | None


def make_rows(settings: TableSettings) -> list[TableRow]:
    """Train what is missing, all settings checked before; then measure. Raises UserError."""
    runs = list_runs(settings)
    if settings.probe is False:
        raise UserError("--no-probe: a table compares probes; leave it out")
    for run in [run for seeds in runs.values() for run in seeds]:
        _, data, _ = prepare_run(run)
        if data.classes is None:
            raise UserError(f"a table compares probes: the samples of {data.location} have no classes")
    if settings.val is not None:
        check_val(settings.val, settings)
    for seeds in runs.values():
        for run in seeds:
            make(run)
    return [
        TableRow(
            name,
            seeds[0].train_config().backbone,
            tuple(100 * top1(run, settings.val) for run in seeds),
            get_recipe(name).paper.get(seeds[0].train_config().backbone),
        )
        for name, seeds in runs.items()
    ]


def list_runs(settings: TableSettings) -> dict[str, list[TrainSettings]]:
    """The runs of each recipe. Raises UserError."""
    settings.refuse("the table has --recipes and --seeds", "recipe", "seed")
    names = list(dict.fromkeys(name.strip() for name in settings.recipes.split(",")))
    return {name: [_run(settings, name, seed) for seed in range(settings.seeds)] for name in names}


def _run(settings: TableSettings, name: str, seed: int) -> TrainSettings:
    changes: dict[str, Any] = {"recipe": name, "seed": seed}
    if get_recipe(name).optimizer is CLASSIFIER:
        changes["learning_rate"] = settings.supervised_learning_rate
    if not get_recipe(name).human_data:
        changes |= {"human_data": [], "human_batch_size": None}
    run = settings.run(**changes)
    folder = f"{settings.folder()}/runs/{name}-{run.train_config().backbone}-seed{seed}"
    return settings.run(**changes, output=folder)


def check_val(val: str, settings: TableSettings) -> None:
    """Raises UserError where validation images are not of the classes that are learnt, before anything is."""
    data = open_dataset(settings.data, settings.unfinished)
    if data.classes is None:
        raise UserError(f"--val: the samples of {settings.data} have no classes; leave it out")
    open_val_folders(val, data.class_names())


def make(run: TrainSettings) -> None:
    """Train, unless its result is there. Raises UserError, also where that is of other settings."""
    folder = RunFolder(run.output_folder())
    if folder.read_json(RESULT) is None:
        run_training(run)
    else:
        check_same_settings(folder.location, folder.read_json(CONFIG) or {}, run_identity(*prepare_run(run)))


def top1(run: TrainSettings, val: str | None) -> float:
    """Of a finished run, on validation folders, or else on augmented training images in its last epoch."""
    folder = RunFolder(run.output_folder())
    if val is None:
        return float(folder.read_json(RESULT)["probe_accuracy"])
    trained = load_trained(f"{folder.location}/{LAST}")
    assert trained.classes is not None, "checked before"
    pictures = open_val_folders(val, trained.classes)
    about = {"val": val, "images": pictures.identity, "checkpoint": trained.sha256}
    if (known := folder.read_json(VALIDATED) or {}).items() >= about.items():
        return float(known["accuracy"])
    device = default_device()
    threads = run.threads_per_worker(device.type)
    examples = read_folder_images(pictures, trained.classes, trained.config.image_size, threads)
    right = measure_accuracy(trained.model.to(device), examples, device)
    folder.write_json(VALIDATED, {**about, "accuracy": right})
    return right
