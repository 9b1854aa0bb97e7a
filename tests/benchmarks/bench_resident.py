"""Training on small images that are decoded in memory, as small-scale research does.

ResNet-18 at 64 px on photographs of 128 px. Ours is fed as in `trainer.run --cache memory`. On a CPU the competitor is
lightly's SimCLR, fed by PyTorch's data loader with torchvision's transform on decoded tensors; a further row compares
with samples that are decoded in every epoch. On a GPU the rates have bars.
"""

import argparse
import io
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from lightly_simclr import make_lightly_step, make_simclr, simclr_transform
from photographs import labeled_photographs
from PIL import Image
from timing import Row, print_table, ratios
from torch import Tensor
from torchvision.transforms import v2
from training_rates import WARM_UP, measure_rate

from common.launch import Rank, default_device
from common.parallel import Decoders, available_cores, default_decoders
from common.shards import Sample
from common.text import pluralize
from tests.support.data.datasets import COLORS, write_dataset
from trainer.config import TrainConfig
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.decoding import DecodedSample
from trainer.data.memory_cache import load_decoded
from trainer.data.sampler import Sampler
from trainer.data.shard_reader import ShardReader
from trainer.data.source import Source
from trainer.loop import make_batches, make_schedule
from trainer.recipes import build
from trainer.step import Trainer

BAR_CPU = 1.0
BAR_GPU = 12_000  # images/s on an H100, guided, stem stride 4
STORED_SIDE, SHARDS = 128, 8
CONTRASTIVE, GUIDED = "ours, contrastive objective only", "ours, guided"
DECODED_AGAIN, LIGHTLY = "ours, guided, decoded in every epoch", "lightly's SimCLR"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256 if torch.cuda.is_available() else 64)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40 if torch.cuda.is_available() else 12)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    device, size = default_device(), arguments.batch_size
    rank = Rank(0, 1, device)
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        data = write_small_photographs(Path(scratch), max(4 * size, 512))
        reader = ShardReader(data)
        memory = Source(load_decoded(data, reader.read, rank, scratch).__getitem__, decoded=True)
        shards = Source(reader.read, decoded=False)
        rates: dict[str, list[float]] = {}
        for _ in range(arguments.repetitions):
            for name, rate in measure_all(arguments, data, memory, shards, rank):
                rates.setdefault(name, []).append(rate)
    bars = {GUIDED: BAR_GPU} if device.type == "cuda" else {}
    rows = [Row(name, values, "images/s", at_least=bars.get(name)) for name, values in rates.items()]
    rows.append(Row("guided: from memory / decoded in every epoch", ratios(rates[GUIDED], rates[DECODED_AGAIN]), "x"))
    if LIGHTLY in rates:
        rows.append(Row("contrastive: ours / lightly's", ratios(rates[CONTRASTIVE], rates[LIGHTLY]), "x", BAR_CPU))
    where = torch.cuda.get_device_name() if device.type == "cuda" else pluralize(available_cores(), "core")
    print_table(f"decoded in memory, resnet18, {arguments.image_size} px, batch {size}, {where}", rows)


def measure_all(
    arguments: argparse.Namespace, data: Dataset, memory: Source, shards: Source, rank: Rank
) -> Iterator[tuple[str, float]]:
    """Measure each case once. Yields its name and images per second."""
    steps = range(WARM_UP + arguments.steps)
    on_gpu, classes = rank.device.type == "cuda", len(COLORS)
    decoders = Decoders(default_decoders(int(on_gpu)), processes=on_gpu)
    config = TrainConfig(backbone="resnet18", image_size=arguments.image_size, batch_size=arguments.batch_size)
    small_stem = config.model_copy(update={"stem_stride": 2})
    two_views = make_simclr(config)
    cases = {
        CONTRASTIVE: (config, two_views, memory),
        GUIDED: (config, build(config.recipe, config, classes), memory),
        DECODED_AGAIN: (config, build(config.recipe, config, classes), shards),
        "ours, guided, stem stride 2": (small_stem, build(config.recipe, small_stem, classes), memory),
    }
    if not on_gpu:
        del cases["ours, guided, stem stride 2"]
    sampler = Sampler(data.sizes, config.batch_size, 0)
    for name, (settings, model, source) in cases.items():
        training = Trainer(settings, model, make_schedule(settings, 100), rank)
        batches = make_batches(settings, data, sampler, source, decoders, rank, steps)
        yield name, measure_rate(training.train_step, batches, config.batch_size)
    if not on_gpu:
        batches = itertools.islice(load_with_pytorch(memory, data, config), len(steps))
        yield LIGHTLY, measure_rate(make_lightly_step(config), batches, config.batch_size)


def write_small_photographs(folder: Path, number: int) -> Dataset:
    """Write a data set of photographs whose shorter side is `STORED_SIDE`."""
    samples = [shrink(sample) for sample in labeled_photographs(number, len(COLORS))]
    write_dataset(folder, [samples[shard::SHARDS] for shard in range(SHARDS)], len(COLORS))
    return open_dataset(str(folder))


def shrink(sample: Sample) -> Sample:
    """Resize the photograph of a sample."""
    image = Image.open(io.BytesIO(sample.jpeg or b"")).convert("RGB")
    scale = STORED_SIDE / min(image.size)
    small, buffer = image.resize([round(side * scale) for side in image.size]), io.BytesIO()
    small.save(buffer, "JPEG", quality=95)
    return sample._replace(jpeg=buffer.getvalue())


class TwoRandomViews(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Two views of each decoded image, by torchvision's SimCLR transform."""

    def __init__(self, images: list[Tensor], side: int) -> None:
        self._images = images
        self._transform = simclr_transform(side, [v2.ToDtype(torch.float32, scale=True)])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._transform(self._images[index]), self._transform(self._images[index])


def load_with_pytorch(memory: Source, data: Dataset, config: TrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of two finished views without end, from PyTorch's data loader with a process per core."""
    samples = (sample for shard in range(len(data.shards)) for sample in memory.read_shard(shard))
    images = [sample.pixels.contiguous() for sample in samples if isinstance(sample, DecodedSample)]
    views = TwoRandomViews(images, config.image_size)
    workers = available_cores()
    loader = torch.utils.data.DataLoader(
        views, config.batch_size, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )
    while True:
        yield from loader


if __name__ == "__main__":
    main()
