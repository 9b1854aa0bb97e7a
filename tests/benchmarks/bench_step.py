"""A training step on the CPU against lightly's SimCLR: the same backbone, batch and machine.

Both: torchvision's ResNet on two views, a projection head of two layers, the contrastive loss over the batch, backward,
LARS, in float32. lightly's parts are put together as its own SimCLR example does, and its views are given finished.
Ours is `Training.learn` with the contrast alone, which also augments the views. Further rows are the whole guided
recipe, which has the clean images beside the views: half as many images again; and the same in bfloat16.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchvision
from timing import against, medians, skip, table
from torch import Tensor, nn

from common.launch import Rank
from trainer.config import TrainConfig
from trainer.data.augment import draw_augmentation, pack_parameters
from trainer.data.decoding import Batch
from trainer.loop import Trainer, make_schedule, prepare_inputs
from trainer.model.backbone import Backbone
from trainer.objectives.base import ContrastiveObjective, EncodedBatch, Features, Model, Outputs
from trainer.recipes import build

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
    batch = made_up(config)
    contrast_only = TwoViews(Backbone(config.backbone, config.norm), config)
    cases = {
        "lightly": lightlys(config, batch),
        "ours": ours(config, contrast_only, batch),
        "guided": ours(config, build(config.recipe, config, 10), batch),
        "low": ours(config.model_copy(update={"precision": "bfloat16"}), build(config.recipe, config, 10), batch),
    }
    seconds = medians(arguments.repetitions, **cases)
    name = f"{config.backbone}, {config.image_size} px, batch {config.batch_size}, {arguments.threads} thread(s)"
    table(
        f"training step, {name}",
        [
            ("lightly's SimCLR", f"{config.batch_size / seconds['lightly']:.1f} images/s", ""),
            ("ours, the contrast alone", f"{config.batch_size / seconds['ours']:.1f} images/s", ""),
            ("ours / lightly's", *against(seconds["lightly"] / seconds["ours"], BAR)),
            ("ours, contrastive-attn-teacher", f"{config.batch_size / seconds['guided']:.1f} images/s", ""),
            ("the same in bfloat16", f"{seconds['guided'] / seconds['low']:.3g} x", ""),
        ],
    )


class TwoViews(Model):
    """The contrast alone: clean images are left aside."""

    def __init__(self, backbone: Backbone, config: TrainConfig) -> None:
        super().__init__(backbone, [ContrastiveObjective(backbone.channels, config)])

    def forward(self, views: Sequence[Tensor], clean: Tensor) -> Outputs:
        seen: Features = self.backbone(torch.cat(list(views)))
        outputs: Outputs = self.parts[0](EncodedBatch(seen, None, (clean.shape[2], clean.shape[3])))
        return outputs


def made_up(config: TrainConfig) -> Batch:
    """A batch of noise."""
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


def ours(config: TrainConfig, model: Model, batch: Batch) -> Callable[[], object]:
    """A step of our loop."""
    training = Trainer(config, model, make_schedule(config, 100), Rank(0, 1, CPU))
    return lambda: training.learn(batch)


def lightlys(config: TrainConfig, batch: Batch) -> Callable[[], object]:
    """A step as lightly's SimCLR example makes it, with lightly's LARS."""
    try:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.utils.lars import LARS
    except ImportError:
        skip("needs lightly, the other implementation: pip install lightly")
    resnet: Any = getattr(torchvision.models, config.backbone)(weights=None)
    channels = resnet.fc.in_features
    resnet.fc = nn.Identity()
    head, criterion = SimCLRProjectionHead(channels, channels, 128), NTXentLoss(temperature=config.temperature)
    network = nn.Sequential(resnet, head).train()
    optimizer = LARS(network.parameters(), lr=make_schedule(config, 100).peak, momentum=0.9, weight_decay=1e-6)
    inputs = prepare_inputs(batch, CPU)

    def run() -> None:
        loss = criterion(*(network(view) for view in inputs.views))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    main()
