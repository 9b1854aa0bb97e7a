"""Training on a GPU fed from shards, against training on a batch that is already on the GPU.

All call `Trainer.train_step` with contrastive-attn-teacher, including augmentation on the device. Fed from shards, each
batch is read from the local disk, and decoded and cropped either by the GPU or by processes of the host.
"""

import argparse
import itertools
import os
import tempfile
from pathlib import Path

import torch
from photographs import labeled_photographs
from timing import Row, print_table, ratios, skip
from torch.utils.flop_counter import FlopCounterMode
from training_rates import WARM_UP, measure_rate

from common.launch import Rank, default_device
from common.parallel import Decoders, default_decoders
from tests.support.data.datasets import COLORS, write_dataset
from tests.support.training import make_stream
from trainer.config import TrainConfig
from trainer.data.dataset import open_dataset
from trainer.data.decoding import Batch, ViewSpec
from trainer.data.device_feed import DeviceFeed, make_feed
from trainer.data.feed import Feed, HostFeed
from trainer.data.sampler import Sampler
from trainer.loop import make_schedule
from trainer.recipes import build, get_recipe
from trainer.step import Trainer

BAR_DEVICE, BAR_HOST = 0.95, 0.9
BAR_RATE = 1400  # images/s on an H200, ResNet-50 at 224 px, batch 256
SHARDS = 8
BATCHES_PER_EPOCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", choices=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--cores", type=int, help="use only so many of the machine's cores (default: all)")
    parser.add_argument("--compile", action="store_true", help="compile the network with torch.compile")
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s of the GPU in bfloat16 (default: an H100's)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--any-device", action="store_true", help="also run without a GPU, to try the script")
    arguments = parser.parse_args()
    device = default_device()
    if device.type == "cpu" and not arguments.any_device:
        skip("needs a GPU")
    if arguments.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    classes, size = len(COLORS), arguments.batch_size
    config = TrainConfig(backbone=arguments.backbone, image_size=arguments.image_size, batch_size=size)
    rank, schedule = Rank(0, 1, device), make_schedule(config, 100)
    training = Trainer(config, build(config.recipe, config, classes), schedule, rank, arguments.compile)
    spec = ViewSpec(config.image_size, get_recipe(config.recipe).views, classes)
    feeds: dict[str, Feed] = {"device": make_feed(spec, device, decoded=False, log=True), "host": HostFeed(spec)}
    decoders = Decoders(default_decoders(gpus=1), processes=device.type == "cuda")
    rates: dict[str, list[float]] = {"resident": [], "device": [], "host": []}
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        samples = labeled_photographs(BATCHES_PER_EPOCH * size, classes)
        write_dataset(Path(scratch), [samples[shard::SHARDS] for shard in range(SHARDS)], classes)
        data = open_dataset(scratch)
        sampler, steps = Sampler(data.sizes, size, 0), WARM_UP + arguments.steps
        streams = {name: make_stream(data, sampler, spec, decoders=decoders, feed=feed) for name, feed in feeds.items()}
        resident = copy_to_device(next(streams["host"].batches(0, 1)), device)
        with FlopCounterMode(display=False) as counter:
            training.train_step(resident)
        for _ in range(arguments.repetitions):
            rates["resident"].append(measure_rate(training.train_step, itertools.repeat(resident, steps), size))
            for name, stream in streams.items():
                rates[name].append(measure_rate(training.train_step, stream.batches(0, steps), size))
    on_gpu = isinstance(feeds["device"], DeviceFeed)
    utilization = [counter.get_total_flops() / size * rate / (arguments.peak * 1e12) for rate in rates["resident"]]
    cores, processes = len(os.sched_getaffinity(0)), decoders.number
    print_table(
        f"training on {torch.cuda.get_device_name() if device.type == 'cuda' else 'a CPU'}, {config.backbone}, "
        f"{config.image_size} px, batch {size}, {cores} cores, {processes} decoders",
        [
            Row("on a batch that is already there", rates["resident"], "images/s", at_least=BAR_RATE),
            Row(f"the same, fraction of {arguments.peak:g} TFLOP/s (MFU)", utilization),
            Row("fed from shards, decoded on the GPU" if on_gpu else "fed (the GPU cannot decode)", rates["device"]),
            Row(
                "the same / on a batch that is already there",
                ratios(rates["device"], rates["resident"]),
                "x",
                BAR_DEVICE,
            ),
            Row("fed from shards, decoded by processes", rates["host"], "images/s"),
            Row("the same / on a batch that is there", ratios(rates["host"], rates["resident"]), "x", BAR_HOST),
        ],
    )


def copy_to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of a batch on a device."""
    tensors = {name: value.to(device) for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)}
    return batch._replace(**tensors)


if __name__ == "__main__":
    main()
