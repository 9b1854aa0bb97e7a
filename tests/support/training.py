"""Single training steps of small models, without a run's folder, checkpoints and logs."""

from pathlib import Path
from typing import Any

import torch

from common.launch import Rank
from common.parallel import Decoders
from common.settings import load_settings
from trainer.config import TrainConfig, TrainSettings
from trainer.data.dataset import open_dataset
from trainer.data.sampler import Sampler
from trainer.data.stream import Stream
from trainer.loop import make_schedule
from trainer.recipes import build, get_recipe
from trainer.step import Trainer

CPU = torch.device("cpu")


def make_settings(data: Path, output: Path, **changes: Any) -> TrainSettings:
    """Return the settings of a small run of two epochs; `changes` are settings that differ."""
    values = {
        "data": data,
        "backbone": "resnet18",
        "image_size": 32,
        "batch_size": 12,
        "epochs": 2,
        "warmup_epochs": 1,
        "output": output,
        "checkpoint_every": 1,
    } | changes
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in values.items()]
    return load_settings(TrainSettings, flags)


def make_trainer(
    data: Path, rank: int = 0, world_size: int = 1, device: torch.device = CPU, compiled: bool = False, **changes: Any
) -> tuple[Trainer, Stream]:
    """Return the trainer of one rank, and the stream of its batches.

    `changes` are settings that differ from those of a small model with batches of 12 images of 32 px.
    """
    defaults = {"backbone": "resnet18", "image_size": 32, "batch_size": 12, "epochs": 3, "warmup_epochs": 1}
    config = TrainConfig(data=str(data), **defaults | changes)
    dataset = open_dataset(config.data)
    sampler = Sampler(dataset.sizes, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    model = build(config.recipe, config, dataset.classes)
    schedule = make_schedule(config, sampler.steps_per_epoch)
    views = get_recipe(config.recipe).views
    stream = Stream(dataset, sampler, config.image_size, rank, world_size, Decoders(2, False), views)
    return Trainer(config, model, schedule, Rank(rank, world_size, device), compiled), stream


def train_steps(data: Path, steps: int, rank: int = 0, world_size: int = 1, **changes: Any) -> list[dict[str, float]]:
    """Train for some steps and return the metrics of each; the arguments are those of `make_trainer`."""
    trainer, stream = make_trainer(data, rank, world_size, **changes)
    return [trainer.train_step(batch) for batch in stream.batches(0, steps)]
