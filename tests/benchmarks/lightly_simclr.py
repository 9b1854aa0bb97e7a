"""What training benchmarks compare: lightly's SimCLR, torchvision's views, and our step without attention."""

from collections.abc import Callable, Sequence
from typing import Any

import torchvision
from timing import skip
from torch import Tensor, nn
from torchvision.transforms import v2

from trainer.config import TrainConfig
from trainer.data.augment import kernel_size
from trainer.loop import make_schedule
from trainer.model.backbone import Backbone
from trainer.objectives import ContrastiveObjective, Model


def make_simclr(config: TrainConfig) -> Model:
    """Return our model with the contrastive objective only, which does not use clean images."""
    backbone = Backbone(config.backbone, config.norm)
    return Model(backbone, [ContrastiveObjective(backbone.channels, config)])


def simclr_transform(side: int, last: Sequence[nn.Module]) -> v2.Compose:
    """Return torchvision's SimCLR transform for views of a side in pixels, with further steps at its end."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(side, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(kernel_size(side), (0.1, 2.0))], 0.5),
            *last,
        ]
    )


def make_lightly_step(config: TrainConfig) -> Callable[[Sequence[Tensor]], None]:
    """Return a function that trains on two finished views of a batch, float [B, 3, S, S] each.

    lightly's components are combined as in its own SimCLR example, with its LARS.
    """
    try:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead
        from lightly.utils.lars import LARS
    except ImportError:
        skip("needs lightly, the implementation to compare with: pip install lightly")
    resnet: Any = getattr(torchvision.models, config.backbone)(weights=None)
    channels = resnet.fc.in_features
    resnet.fc = nn.Identity()
    head, criterion = SimCLRProjectionHead(channels, channels, 128), NTXentLoss(temperature=config.temperature)
    network = nn.Sequential(resnet, head).train()
    optimizer = LARS(network.parameters(), lr=make_schedule(config, 100).peak, momentum=0.9, weight_decay=1e-6)

    def train(views: Sequence[Tensor]) -> None:
        loss = criterion(*(network(view) for view in views))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train
