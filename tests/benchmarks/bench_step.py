"""A training step on the CPU, against lightly's SimCLR with the same backbone and batch.

Both run torchvision's ResNet on two views, a projection head of two layers, the contrastive loss over the batch,
backward and LARS, in float32. lightly's components are combined as in its own SimCLR example, and it receives finished
views. Ours is `Trainer.train_step` with the contrastive objective only, which also augments the views. Further rows
show the guided recipe, which also processes the clean images (half as many images again), and the same in bfloat16.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from lightly_simclr import make_lightly_step, make_simclr
from timing import Row, print_table, rates, ratios, time_cases

from common.launch import Rank
from common.text import pluralize
from trainer.config import TrainConfig
from trainer.data.augment import draw_augmentation, pack_parameters
from trainer.data.decoding import Batch
from trainer.loop import make_schedule
from trainer.objectives import Model
from trainer.recipes import build
from trainer.step import Trainer, prepare_inputs

BAR = 1.0
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18", choices=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = TrainConfig(
        backbone=arguments.backbone, image_size=arguments.image_size, batch_size=arguments.batch_size, epochs=100
    )
    batch = make_noise_batch(config)
    contrast_only = make_simclr(config)
    lightly_step, views = make_lightly_step(config), prepare_inputs(batch, CPU).views
    cases = {
        "lightly": lambda: lightly_step(views),
        "ours": trainer_step(config, contrast_only, batch),
        "guided": trainer_step(config, build(config.recipe, config, 10), batch),
        "bfloat16": trainer_step(
            config.model_copy(update={"precision": "bfloat16"}), build(config.recipe, config, 10), batch
        ),
    }
    seconds = time_cases(arguments.repetitions, **cases)
    threads = pluralize(arguments.threads, "thread")
    name = f"{config.backbone}, {config.image_size} px, batch {config.batch_size}, {threads}"
    print_table(
        f"training step, {name}",
        [
            Row("lightly's SimCLR", rates(seconds["lightly"], config.batch_size), "images/s"),
            Row("ours, contrastive objective only", rates(seconds["ours"], config.batch_size), "images/s"),
            Row("ours / lightly's", ratios(seconds["lightly"], seconds["ours"]), "x", BAR),
            Row("ours, contrastive-attn-teacher", rates(seconds["guided"], config.batch_size), "images/s"),
            Row("the same in bfloat16 / in float32", ratios(seconds["guided"], seconds["bfloat16"]), "x"),
        ],
    )


def make_noise_batch(config: TrainConfig) -> Batch:
    """Return a batch of random pixels, maps and gaze points."""
    generator = np.random.default_rng(0)
    n, side = config.batch_size, config.image_size
    pixels = torch.randint(0, 256, (n, 3, 3, side, side), dtype=torch.uint8)
    parameters = [[pack_parameters(draw_augmentation(generator)) for _ in range(2)] for _ in range(n)]
    return Batch(
        views=pixels[:, :2],
        clean=pixels[:, 2],
        augmentation=torch.tensor(parameters),
        attention=torch.randint(0, 256, (n, 224, 224), dtype=torch.uint8),
        gaze=[generator.random((8, 3), np.float32) for _ in range(n)],
        labels=torch.arange(n) % 10,
        keys=[str(number) for number in range(n)],
        skipped=0,
    )


def trainer_step(config: TrainConfig, model: Model, batch: Batch) -> Callable[[], object]:
    """Return a function that runs one training step of this project."""
    training = Trainer(config, model, make_schedule(config, 100), Rank(0, 1, CPU))
    return lambda: training.train_step(batch)


if __name__ == "__main__":
    main()
