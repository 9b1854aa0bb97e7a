"""ResNets with torchvision's weights layout, giving the features and the maps of their last three stages."""

from typing import Literal, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

BackboneName = Literal["resnet18", "resnet34", "resnet50"]
NormName = Literal["batch", "group"]
GROUPS = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights expect


class Features(NamedTuple):
    """What a backbone makes of images: `pooled` [B, C], and the maps of layer2, layer3, layer4, [B, c, h, w] each.

    `mask`, [B, h, w] in (0, 1), is what the last maps were weighted with before pooling, where a block does that.
    """

    pooled: Tensor
    stages: tuple[Tensor, Tensor, Tensor]
    mask: Tensor | None = None

    def detached(self) -> "Features":
        """The same, for what must tell the backbone nothing."""
        first, second, third = (stage.detach() for stage in self.stages)
        return Features(self.pooled.detach(), (first, second, third), None if self.mask is None else self.mask.detach())


class Backbone(nn.Module):
    """A ResNet without its classifier. Input: RGB in [0, 1], float [B, 3, H, W]; mean and std are applied here.

    The last gamma of each residual block begins at 0. With group norm for batch norm a batch may be cut anywhere.
    """

    def __init__(self, name: BackboneName, norm: NormName = "batch") -> None:
        super().__init__()
        make = getattr(torchvision.models, name)
        self.resnet = make(weights=None, zero_init_residual=True, norm_layer=None if norm == "batch" else _group_norm)
        self.channels: int = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        if norm == "group":
            _begin_as_identity(self.resnet)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Features:
        net = self.resnet
        maps = (images - self.mean) / self.std
        maps = net.maxpool(net.relu(net.bn1(net.conv1(maps.contiguous(memory_format=torch.channels_last)))))
        maps = net.layer1(maps)
        second = net.layer2(maps)
        third = net.layer3(second)
        fourth = net.layer4(third)
        return Features(net.avgpool(fourth).flatten(1), (second, third, fourth))


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, channels)


def _begin_as_identity(resnet: nn.Module) -> None:
    """What `zero_init_residual` does, which knows batch norm's names only in blocks of batch norm."""
    for block in resnet.modules():
        last = getattr(block, "bn3", None) or getattr(block, "bn2", None)
        if isinstance(last, nn.GroupNorm):
            nn.init.zeros_(last.weight)
