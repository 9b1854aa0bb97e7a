"""Single training steps of small models, without a run's folder, checkpoints and logs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from common.launch import Rank
from common.parallel import Decoders
from common.settings import load_settings
from trainer.config import TrainConfig, TrainSettings
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.decoding import StoredSample, ViewSpec
from trainer.data.feed import Feed, HostFeed
from trainer.data.sampler import Sampler, rank_slots
from trainer.data.shard_cache import ShardCache
from trainer.data.shard_reader import ShardReader
from trainer.data.stream import Stream
from trainer.loop import make_schedule
from trainer.recipes import build, get_recipe
from trainer.step import Trainer

CPU = torch.device("cpu")
THREADS = Decoders(2, False)
ReadShard = Callable[[int], Sequence[StoredSample]]


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
    get_recipe(config.recipe).prepare(model, dataset, config)
    schedule = make_schedule(config, sampler.steps_per_epoch)
    spec = ViewSpec(config.image_size, get_recipe(config.recipe).views, dataset.classes)
    stream = make_stream(dataset, sampler, spec, rank, world_size)
    return Trainer(config, model, schedule, Rank(rank, world_size, device), compiled), stream


def make_stream(
    data: Dataset,
    sampler: Sampler,
    spec: ViewSpec,
    rank: int = 0,
    world_size: int = 1,
    decoders: Decoders = THREADS,
    skip_damaged: bool = False,
    cache: ShardCache | None = None,
    read_shard: ReadShard | None = None,
    feed: Feed | None = None,
) -> Stream:
    """Return the stream of a rank's batches, from the data set's shards and on the host if nothing else is given."""
    slots = rank_slots(sampler.batch_size, world_size, rank)
    read_shard = read_shard or ShardReader(data, skip_damaged, cache).read
    return Stream(data, sampler, slots, read_shard, feed or HostFeed(spec), decoders, skip_damaged)


def train_steps(data: Path, steps: int, rank: int = 0, world_size: int = 1, **changes: Any) -> list[dict[str, float]]:
    """Train for some steps and return the metrics of each; the arguments are those of `make_trainer`."""
    trainer, stream = make_trainer(data, rank, world_size, **changes)
    return [trainer.train_step(batch) for batch in stream.batches(0, steps)]
