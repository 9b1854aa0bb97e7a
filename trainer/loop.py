"""The training loop of one rank, in plain PyTorch: the same under Ray Train, torchrun, or in a single process."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from common.launch import Rank
from common.parallel import Decoders
from common.storage.run_folder import RunFolder
from trainer.checkpoint import read_checkpoint
from trainer.config import TrainConfig, TrainSettings
from trainer.data.augment import ViewSettings
from trainer.data.dataset import Dataset
from trainer.data.decoding import Batch, ViewSpec
from trainer.data.device_feed import make_feed
from trainer.data.fixation_stream import HumanStream, open_human_data
from trainer.data.sampler import Sampler, rank_slots
from trainer.data.source import Source, open_source
from trainer.data.stream import Stream
from trainer.model.weights import initialize_backbone
from trainer.optim import Schedule
from trainer.recipes import build, get_recipe
from trainer.run_log import BEST, LAST, AfterEpoch, RunLog, no_extra_figures
from trainer.run_metrics import export_metrics
from trainer.run_page.page import RunPage
from trainer.step import Trainer


def train(
    settings: TrainSettings, data: Dataset, output: str, rank: Rank, after_epoch: AfterEpoch = no_extra_figures
) -> None:
    """Train one rank of a run, from its last checkpoint to its end.

    Args:
        settings: settings of the run.
        data: data set to train on.
        output: folder of the run, local or in S3.
        rank: this process among those that train together.
        after_epoch: computes additional metrics after each epoch.

    Raises UserError for damaged samples and checkpoints, and if the training diverges.
    """
    config = settings.train_config()
    torch.manual_seed(config.seed)
    if rank.index == 0 and config.precision == "bfloat16" and rank.device.type == "cpu":
        warn_of_slow_bfloat16(torch.backends.cpu.get_cpu_capability())
    classes = config.probe_classes(data.classes)
    sampler = Sampler(data.sizes, config.batch_size, config.seed)
    schedule = make_schedule(config, sampler.steps_per_epoch)
    model, folder = build(config.recipe, config, classes), RunFolder(output)
    if not folder.fetch(LAST).exists():
        if config.init:
            initialize_backbone(model.backbone, config.init, read_checkpoint(config.init))
        get_recipe(config.recipe).prepare(model, data, config)
    trainer = Trainer(config, model, schedule, rank, settings.compile)
    names = data.class_names() if classes else None
    page = RunPage(folder, trainer, data, sampler.steps_per_epoch) if rank.index == 0 else None
    metrics = export_metrics(output, schedule.steps) if rank.index == 0 else None
    every = settings.checkpoint_every
    run_log = RunLog(folder, trainer, sampler.steps_per_epoch, every, names, after_epoch, page, metrics)
    run_log.resume()
    decoders = Decoders(settings.threads_per_worker(rank.device.type), processes=rank.device.type == "cuda")
    steps = range(trainer.step, schedule.steps)
    source = open_source(settings, data, rank, output, len(steps) / sampler.steps_per_epoch)
    batches = make_batches(config, data, sampler, source, decoders, rank, steps)
    with run_log:
        for batch, waited in time_batches(batches):
            figures = trainer.train_step(batch)
            skipped = rank.total(batch.skipped) if config.skip_damaged else 0
            run_log.log_step(figures, waited, skipped)
        run_log.finish(_summary(config, data, rank))


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> Schedule:
    """Return the learning rate schedule of a run; the recipe's rule gives the peak unless the settings do."""
    peak = config.learning_rate or get_recipe(config.recipe).optimizer.peak_learning_rate(config.batch_size)
    steps = config.epochs * steps_per_epoch
    return Schedule(peak, steps, min(round(config.warmup_epochs * steps_per_epoch), steps))


def make_batches(
    config: TrainConfig, data: Dataset, sampler: Sampler, source: Source, decoders: Decoders, rank: Rank, steps: range
) -> Iterator[Batch]:
    """Yield a rank's batches of some steps.

    Recipes that train on human attention get photographs with fixations instead of the shards' clean images.
    """
    recipe, size = get_recipe(config.recipe), config.image_size
    settings = ViewSettings(config.min_crop, config.jitter_strength, config.blur)
    spec = ViewSpec(size, recipe.views, data.classes, settings)
    feed = make_feed(spec, rank.device, source.decoded, log=rank.index == 0)
    slots = rank_slots(sampler.batch_size, rank.world_size, rank.index)
    stream = Stream(data, sampler, slots, source.read_shard, feed, decoders, config.skip_damaged)
    batches = stream.batches(steps.start, steps.stop)
    if recipe.human_data:
        images, batch_size = open_human_data(config.human_data), config.human_batch_size or config.batch_size
        human = HumanStream(images, batch_size, config.seed, size, rank.index, rank.world_size, decoders)
        batches = human.replace_clean(batches, steps.start, steps.stop)
    return batches


def time_batches(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield each batch with the seconds that the loop waited for it."""
    start = time.monotonic()
    for batch in batches:
        yield batch, time.monotonic() - start
        start = time.monotonic()


def _summary(config: TrainConfig, data: Dataset, rank: Rank) -> dict[str, Any]:
    """Return what the result of a run contains apart from its metrics."""
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


def warn_of_slow_bfloat16(capability: str) -> None:
    """Print a warning if a CPU with this capability (`torch.backends.cpu.get_cpu_capability()`) emulates bfloat16."""
    if capability == "AVX2":
        print(
            "--precision bfloat16: this CPU (AVX2) has no bfloat16 arithmetic; training takes about ten times as long "
            "as in float32. Stop the run and leave the flag out",
            file=sys.stderr,
        )
