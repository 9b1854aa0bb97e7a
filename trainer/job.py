"""A training run from its settings to its folder: data opened, workers launched, result kept."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from common.errors import UserError
from common.fixations import FixatedImage
from common.launch import Rank, is_main_process, launch, world_size
from common.parallel import Decoders
from common.storage.run_folder import RunFolder
from common.training import save_or_check_settings
from trainer.card import model_card
from trainer.config import DEMO_DATA, TrainConfig, TrainSettings
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.decoding import Batch
from trainer.data.fixation_stream import (
    HumanStream,
    OnNote,
    fixations_checksum,
    ignore_note,
    open_human_data,
    print_note_once,
)
from trainer.data.sampler import Sampler, rank_slots
from trainer.data.stream import Stream
from trainer.loop import Trainer, make_schedule, time_batches
from trainer.recipes import build, describe_recipe, get_recipe
from trainer.run_log import BEST, RESULT, AfterEpoch, RunLog, no_extra_figures

CONFIG, CARD = "config.json", "README.md"


def run_training(settings: TrainSettings) -> dict[str, Any] | None:
    """Train as the settings say, on the workers that they name; returns the result. Raises UserError.

    Of processes that torchrun started only the first returns one.
    """
    output = settings.output_folder()
    config, data, people = prepare_run(settings)
    steps = Sampler(data.sizes, config.batch_size, config.seed).steps_per_epoch
    folder = RunFolder(output)
    folder.check_writable()
    if is_main_process():
        save_or_check_settings(folder, CONFIG, run_identity(config, data, people))
        print(
            f"{config.recipe}, {config.backbone} at {config.image_size} px on {data.samples:,} samples in "
            f"{len(data.shards):,} shards: {config.epochs:,} epochs of {steps:,} steps of {config.batch_size:,} images"
        )
        if config.epochs <= config.warmup_epochs:
            print(
                f"--warmup-epochs {config.warmup_epochs:g}: the learning rate rises to the end and never falls; choose "
                "fewer, such as a tenth of --epochs",
                file=sys.stderr,
            )
    launch(lambda rank: train(settings, data, output, rank), settings.workers, folder.path)
    if not is_main_process():
        return None
    result: dict[str, Any] = folder.read_json(RESULT)
    folder.write(CARD, model_card(config, describe_recipe(config.recipe), result))
    return result


def prepare_run(settings: TrainSettings) -> tuple[TrainConfig, Dataset, list[FixatedImage]]:
    """The settings and the data of a run, all checked before anything is written. Raises UserError."""
    config = settings.train_config()
    data = open_dataset(_demo_data() if config.data == DEMO_DATA else config.data, config.unfinished)
    if config.probe and data.classes is None:
        raise UserError(f"--probe: the samples of {config.data} have no classes; leave it out")
    workers = world_size(settings.workers)
    get_recipe(config.recipe).check(config, _classes(config, data), workers, settings.compile)
    people = _human_data(config, print_note_once if is_main_process() else ignore_note)
    Sampler(data.sizes, config.batch_size, config.seed)
    rank_slots(config.batch_size, workers, 0)
    if people:
        rank_slots(config.human_batch_size or config.batch_size, workers, 0, "--human-batch-size")
    if config.micro_batch == 1 and config.norm == "batch":
        raise UserError("--micro-batch 1: batch norm needs two images or more at once; choose more, or --norm group")
    return config, data, people


def train(
    settings: TrainSettings, data: Dataset, output: str, rank: Rank, after_epoch: AfterEpoch = no_extra_figures
) -> None:
    """One rank of a run, from its last checkpoint to its end. Raises UserError."""
    config, folder = settings.train_config(), RunFolder(output)
    torch.manual_seed(config.seed)
    classes = _classes(config, data)
    sampler = Sampler(data.sizes, config.batch_size, config.seed)
    plan = make_schedule(config, sampler.steps_per_epoch)
    training = Trainer(config, build(config.recipe, config, classes), plan, rank, settings.compile)
    if rank.index == 0 and config.precision == "bfloat16" and rank.device.type == "cpu":
        warn_of_slow_bfloat16(torch.backends.cpu.get_cpu_capability())
    decoders = Decoders(settings.threads_per_worker(rank.device.type), rank.device.type == "cuda")
    views = get_recipe(config.recipe).views
    stream = Stream(data, sampler, config.image_size, rank.index, rank.world_size, decoders, views, config.skip_damaged)
    names = data.class_names() if classes else None
    journal = RunLog(folder, training, sampler.steps_per_epoch, settings.checkpoint_every, names, after_epoch)
    journal.resume()
    with journal:
        for batch, waited in time_batches(_batches(config, stream, rank, decoders, training.step, plan.steps)):
            skipped = rank.total(batch.skipped) if config.skip_damaged else 0
            journal.note(training.learn(batch), waited, skipped)
        journal.finish(_summary(config, data, rank))


def warn_of_slow_bfloat16(capability: str) -> None:
    """Say so where a CPU of this capability, as PyTorch names it, can only imitate bfloat16."""
    if capability == "AVX2":
        print(
            "--precision bfloat16: this CPU (AVX2) has no such arithmetic and takes about ten times as long as in "
            "float32; stop, and leave it out",
            file=sys.stderr,
        )


def _summary(config: TrainConfig, data: Dataset, rank: Rank) -> dict[str, Any]:
    """What a result says of its run, beside its figures."""
    return {
        "recipe": config.recipe,
        "backbone": config.backbone,
        "image_size": config.image_size,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "workers": rank.world_size,
        "device": rank.device.type,
        "samples": data.samples,
        "dataset": data.checksum,
        "chance": 1 / data.classes if data.classes else None,
        "weights": BEST,
    }


def _classes(config: TrainConfig, data: Dataset) -> int | None:
    """How many a probe or classifier learns; None: there is none."""
    return None if config.probe is False else data.classes


def _demo_data() -> str:
    """The demo's shards. Raises UserError where they have not been made."""
    try:
        open_dataset(DEMO_DATA)
    except UserError:
        raise UserError(
            f"the demo learns from {DEMO_DATA}, which is not there yet; make it with "
            "python -m labeler.run --input demo:scenes, or name your own shards: --data DATASET"
        ) from None
    return DEMO_DATA


def _human_data(config: TrainConfig, tell: OnNote = ignore_note) -> list[FixatedImage]:
    """Human-labelled images for the recipe that looks at them. `tell` is told what was left out. Raises UserError."""
    if not get_recipe(config.recipe).human_data:
        if config.human_data or config.human_batch_size:
            raise UserError(f"--human-data, --human-batch-size: {config.recipe} does not look at them; leave them out")
        return []
    if not config.human_data:
        raise UserError(f"--human-data is needed: {config.recipe} learns where people look from FORMAT:FOLDER")
    return open_human_data(config.human_data, tell)


def _batches(
    config: TrainConfig, stream: Stream, rank: Rank, decoders: Decoders, first: int, end: int
) -> Iterator[Batch]:
    """The batches of a rank, with human-labelled images where the recipe looks at them."""
    batches = stream.batches(first, end)
    if people := _human_data(config):
        number = config.human_batch_size or config.batch_size
        human = HumanStream(people, number, config.seed, config.image_size, rank.index, rank.world_size, decoders)
        batches = human.beside(batches, first, end)
    return batches


def run_identity(config: TrainConfig, data: Dataset, people: Sequence[FixatedImage]) -> dict[str, Any]:
    """What a run is told by: the settings and the data that decide its weights.

    Not `skip_damaged`, which a run that met a damaged sample goes on with.
    """
    checksums = {"dataset": data.checksum} | ({"human_dataset": fixations_checksum(people)} if people else {})
    return config.model_dump(mode="json", exclude={"skip_damaged"}) | checksums
