"""A training job: settings and data are checked, workers are launched, and the result and its card are written."""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from common.errors import UserError
from common.fixations import FixatedImage
from common.launch import Rank, is_main_process, launch, world_size
from common.storage.run_folder import RunFolder
from common.text import pluralize
from common.training import METRICS_FILE, save_or_check_settings
from trainer.card import model_card
from trainer.checkpoint import read_checkpoint
from trainer.config import ADDED_SETTINGS, DEMO_DATA, TrainConfig, TrainSettings
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.fixation_stream import (
    OnNote,
    fixations_checksum,
    ignore_note,
    open_human_data,
    print_note_once,
)
from trainer.data.sampler import Sampler, rank_slots
from trainer.loop import train
from trainer.model.backbone import Backbone
from trainer.model.weights import initialize_backbone
from trainer.recipes import describe_recipe, get_recipe
from trainer.run_log import LAST, RESULT, no_extra_figures
from trainer.run_page.maps import MAPS_FILE
from trainer.run_page.page import PAGE
from trainer.studies.monitor import make_monitor

CONFIG, CARD = "config.json", "README.md"
# may be there without config.json if it was removed
OWN_FILES = ("checkpoints", METRICS_FILE, "tensorboard", "ray", RESULT, PAGE, MAPS_FILE)


def run_training(settings: TrainSettings) -> dict[str, Any] | None:
    """Run a training job and return its result.

    Of several processes started by torchrun only the first one returns a result, the others None. Raises UserError.
    """
    output = settings.output_folder()
    folder = RunFolder(output)
    settings = settings.resume(folder.read_json(CONFIG))
    config, data, human_images = prepare_run(settings)
    if is_main_process():
        folder.check_content("a run", (CONFIG, LAST), OWN_FILES)
        make_monitor(settings, data, Rank(0, 1, torch.device("cpu")))  # raises UserError for a folder that does not fit
    folder.check_writable()
    if is_main_process():
        if config.init and not folder.fetch(LAST).exists():
            backbone = Backbone(config.backbone, config.norm, config.stem_stride)
            print(initialize_backbone(backbone, config.init, read_checkpoint(config.init)))
        save_or_check_settings(folder, CONFIG, run_identity(config, data, human_images), ADDED_SETTINGS)
        _print_plan(config, data)
    launch(lambda rank: _train_rank(settings, data, output, rank), settings.workers, folder.path)
    if not is_main_process():
        return None
    result: dict[str, Any] = folder.read_json(RESULT)
    folder.write(CARD, model_card(config, describe_recipe(config.recipe), result))
    return result


def _train_rank(settings: TrainSettings, data: Dataset, output: str, rank: Rank) -> None:
    train(settings, data, output, rank, make_monitor(settings, data, rank) or no_extra_figures)


def prepare_run(settings: TrainSettings) -> tuple[TrainConfig, Dataset, list[FixatedImage]]:
    """Open the data of a run and check it with the settings, before anything is written.

    Returns the settings that decide the weights, the data set, and the photographs with fixations for recipes that use
    them. Raises UserError.
    """
    config = settings.train_config()
    data = open_dataset(_demo_data() if config.data == DEMO_DATA else config.data, config.unfinished)
    if config.probe and data.classes is None:
        raise UserError(f"--probe: the samples of {config.data} have no classes; leave the flag out")
    workers = world_size(settings.workers)
    get_recipe(config.recipe).check(config, config.probe_classes(data.classes), workers, settings.compile)
    human_images = _open_human_images(config, print_note_once if is_main_process() else ignore_note)
    Sampler(data.sizes, config.batch_size, config.seed)  # raises UserError for too few samples
    rank_slots(config.batch_size, workers, 0)
    if human_images:
        rank_slots(config.human_batch_size or config.batch_size, workers, 0, "--human-batch-size")
    if config.micro_batch == 1 and config.norm == "batch":
        raise UserError("--micro-batch 1: batch norm needs two or more images at once; choose more, or --norm group")
    return config, data, human_images


def run_identity(config: TrainConfig, data: Dataset, human_images: Sequence[FixatedImage]) -> dict[str, Any]:
    """Return the settings and checksums that identify a run; a run is resumed only if they are the same.

    `skip_damaged` is not part of them, so that a run that met a damaged sample can be resumed with it.
    """
    checksums = {"dataset": data.checksum}
    if human_images:
        checksums["human_dataset"] = fixations_checksum(human_images)
    return config.model_dump(mode="json", exclude={"skip_damaged"}) | checksums


def _print_plan(config: TrainConfig, data: Dataset) -> None:
    steps = Sampler(data.sizes, config.batch_size, config.seed).steps_per_epoch
    print(
        f"{config.recipe}, {config.backbone} at {config.image_size} px on {pluralize(data.samples, 'sample')} in "
        f"{pluralize(len(data.shards), 'shard')}: {pluralize(config.epochs, 'epoch')} of {pluralize(steps, 'step')} of "
        f"{config.batch_size:,} images"
    )
    if config.epochs <= config.warmup_epochs:
        print(
            f"--warmup-epochs {config.warmup_epochs:g}: the learning rate rises until the end and never falls; choose "
            "fewer, for example a tenth of --epochs",
            file=sys.stderr,
        )


def _demo_data() -> str:
    """Return the folder of the demo's shards. Raises UserError if they do not exist yet."""
    try:
        open_dataset(DEMO_DATA)
    except UserError:
        raise UserError(
            f"the demo trains on {DEMO_DATA}, which does not exist yet; make it with "
            "python -m labeler.run --input demo:scenes, or name your own shards: --data DATASET"
        ) from None
    return DEMO_DATA


def _open_human_images(config: TrainConfig, on_note: OnNote) -> list[FixatedImage]:
    """Open the photographs with fixations if the recipe trains on them. Raises UserError if the settings do not fit."""
    if not get_recipe(config.recipe).human_data:
        if config.human_data or config.human_batch_size:
            raise UserError(
                f"--human-data, --human-batch-size: {config.recipe} does not train on human attention; leave them out"
            )
        return []
    if not config.human_data:
        raise UserError(f"--human-data is needed: {config.recipe} trains on human attention from FORMAT:FOLDER")
    return open_human_data(config.human_data, on_note)
