"""Training from shards on a GPU against the same on a batch that is already there: do the shards come fast enough?

Both are `Training.learn` with contrastive-attn-teacher, augmentation on the device included. Fed: each batch is read
from shards on this machine's disk, decoded and cropped by processes, put together and copied, as `trainer.run` does it.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from photographs import labelled_photographs
from timing import against, skip, table

from common.launch import Rank
from common.parallel import Decoders, default_decoders
from tests.support.datasets import COLOURS, keep_dataset
from trainer.config import TrainConfig
from trainer.data.dataset import open_dataset
from trainer.data.decoding import Batch
from trainer.data.sampler import Sampler
from trainer.data.stream import Stream
from trainer.loop import Trainer, make_schedule
from trainer.recipes import build, get_recipe

GPU = torch.device("cuda", 0)
BAR = 0.9
WARM_UP = 5  # steps
SHARDS = 8
EPOCH = 4  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", choices=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=default_decoders(gpus=1), help="processes that decode")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        skip("needs a GPU")
    classes, size = len(COLOURS), arguments.batch_size
    config = TrainConfig(backbone=arguments.backbone, image_size=arguments.image_size, batch_size=size)
    training = Trainer(config, build(config.recipe, config, classes), make_schedule(config, 100), Rank(0, 1, GPU))
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        samples = labelled_photographs(EPOCH * size, classes)
        keep_dataset(Path(scratch), [samples[shard::SHARDS] for shard in range(SHARDS)], classes)
        data = open_dataset(scratch)
        views, decoders = get_recipe(config.recipe).views, Decoders(arguments.threads, processes=True)
        stream = Stream(data, Sampler(data.sizes, size, 0), config.image_size, 0, 1, decoders, views)
        steps = WARM_UP + arguments.steps
        there = on_gpu(next(stream.batches(0, 1)))
        resident = rate(training, itertools.repeat(there, steps), size)
        fed = rate(training, stream.batches(0, steps), size)
    name = f"{config.backbone}, {config.image_size} px, batch {size}, {arguments.threads} processes"
    table(
        f"training on {torch.cuda.get_device_name()}, {name}",
        [
            ("on a batch that is there", f"{resident:.0f} images/s", ""),
            ("fed from shards", f"{fed:.0f} images/s", ""),
            ("fed / there", *against(fed / resident, BAR)),
        ],
    )


def on_gpu(batch: Batch) -> Batch:
    """The same batch, in the GPU's memory."""
    tensors = {name: value.to(GPU) for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)}
    return batch._replace(**tensors)


def rate(training: Trainer, batches: Iterable[Batch], size: int) -> float:
    """Images a second of learning from the batches, the first ones aside."""
    began = 0.0
    steps = 0
    for step, batch in enumerate(batches):
        if step == WARM_UP:
            torch.cuda.synchronize()
            began = time.perf_counter()
        training.learn(batch)
        steps += step >= WARM_UP
    torch.cuda.synchronize()
    return size * steps / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
