"""Training on a GPU fed from shards, against training on a batch that is already on the GPU.

Both call `Trainer.train_step` with contrastive-attn-teacher, including augmentation on the device. When fed from
shards, each batch is read from the local disk, decoded and cropped by processes, concatenated and copied, as in
`trainer.run`.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from photographs import labeled_photographs
from timing import Row, print_table, ratios, skip

from common.launch import Rank
from common.parallel import Decoders, default_decoders
from tests.support.data.datasets import COLORS, write_dataset
from trainer.config import TrainConfig
from trainer.data.dataset import open_dataset
from trainer.data.decoding import Batch
from trainer.data.sampler import Sampler
from trainer.data.stream import Stream
from trainer.loop import make_schedule
from trainer.recipes import build, get_recipe
from trainer.step import Trainer

GPU = torch.device("cuda", 0)
BAR = 0.9
WARM_UP = 5  # steps that are not timed
SHARDS = 8
BATCHES_PER_EPOCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", choices=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=default_decoders(gpus=1), help="decoding processes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        skip("needs a GPU")
    classes, size = len(COLORS), arguments.batch_size
    config = TrainConfig(backbone=arguments.backbone, image_size=arguments.image_size, batch_size=size)
    training = Trainer(config, build(config.recipe, config, classes), make_schedule(config, 100), Rank(0, 1, GPU))
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        samples = labeled_photographs(BATCHES_PER_EPOCH * size, classes)
        write_dataset(Path(scratch), [samples[shard::SHARDS] for shard in range(SHARDS)], classes)
        data = open_dataset(scratch)
        views, decoders = get_recipe(config.recipe).views, Decoders(arguments.threads, processes=True)
        stream = Stream(data, Sampler(data.sizes, size, 0), config.image_size, 0, 1, decoders, views)
        steps = WARM_UP + arguments.steps
        on_device = copy_to_gpu(next(stream.batches(0, 1)))
        resident, fed = [], []
        for _ in range(arguments.repetitions):
            resident.append(measure_rate(training, itertools.repeat(on_device, steps), size))
            fed.append(measure_rate(training, stream.batches(0, steps), size))
    name = f"{config.backbone}, {config.image_size} px, batch {size}, {arguments.threads} processes"
    print_table(
        f"training on {torch.cuda.get_device_name()}, {name}",
        [
            Row("on a batch on the GPU", resident, "images/s"),
            Row("fed from shards", fed, "images/s"),
            Row("fed from shards / on a batch on the GPU", ratios(fed, resident), "x", BAR),
        ],
    )


def copy_to_gpu(batch: Batch) -> Batch:
    """Return a copy of a batch in the memory of the GPU."""
    tensors = {name: value.to(GPU) for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)}
    return batch._replace(**tensors)


def measure_rate(training: Trainer, batches: Iterable[Batch], size: int) -> float:
    """Train on the batches. Returns images per second, without the first WARM_UP steps."""
    start = 0.0
    steps = 0
    for step, batch in enumerate(batches):
        if step == WARM_UP:
            torch.cuda.synchronize()
            start = time.perf_counter()
        training.train_step(batch)
        steps += step >= WARM_UP
    torch.cuda.synchronize()
    return size * steps / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
