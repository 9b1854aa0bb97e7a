"""ResNets with torchvision's state dict that return pooled features and the maps of their last three stages."""

from typing import Literal, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

BackboneName = Literal["resnet18", "resnet34", "resnet50"]
NormName = Literal["batch", "group"]
StemStride = Literal[4, 2, 1]
GROUPS = 32  # of group norm
STEM_CHANNELS = 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights expect


class Features(NamedTuple):
    """Features of B images.

    Attributes:
        pooled: global features, [B, C].
        stages: feature maps of layer2, layer3 and layer4, [B, c, h, w] each.
        mask: mask in (0, 1) by which the last stage was multiplied before pooling, [B, h, w]; None without an attention
            block.
    """

    pooled: Tensor
    stages: tuple[Tensor, Tensor, Tensor]
    mask: Tensor | None = None

    def detach(self) -> "Features":
        """Return the same features, detached from the graph."""
        first, second, third = (stage.detach() for stage in self.stages)
        return Features(self.pooled.detach(), (first, second, third), None if self.mask is None else self.mask.detach())


class Backbone(nn.Module):
    """A ResNet without its classifier. Its input is normalized by ImageNet's mean and standard deviation here.

    The last norm of each residual block is initialized to a scale of 0, so that each block starts as the identity.

    Args:
        name: architecture.
        norm: batch norm, or group norm, whose result does not depend on the other images of a batch.
        stem_stride: stride of the layers before the first stage. 4 is torchvision's network; 2 and 1 are for small
            images: a 3x3 convolution of this stride, without pooling.
    """

    def __init__(self, name: BackboneName, norm: NormName = "batch", stem_stride: StemStride = 4) -> None:
        super().__init__()
        make_resnet = getattr(torchvision.models, name)
        norm_layer = None if norm == "batch" else _group_norm
        self.resnet = make_resnet(weights=None, zero_init_residual=True, norm_layer=norm_layer)
        self.channels: int = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        if stem_stride != 4:
            self.resnet.conv1 = small_stem(stem_stride)
            self.resnet.maxpool = nn.Identity()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Features:
        """Compute the features of RGB images in [0, 1], float [B, 3, H, W]."""
        net = self.resnet
        maps = (images - self.mean) / self.std
        if not torch.compiler.is_exporting():  # strides that depend on sizes would become conditions on the sizes
            maps = maps.contiguous(memory_format=torch.channels_last)
        maps = net.maxpool(net.relu(net.bn1(net.conv1(maps))))
        maps = net.layer1(maps)
        second = net.layer2(maps)
        third = net.layer3(second)
        fourth = net.layer4(third)
        return Features(net.avgpool(fourth).flatten(1), (second, third, fourth))


def small_stem(stride: int) -> nn.Conv2d:
    """Return the first convolution of networks for small images, with torchvision's initialization."""
    stem = nn.Conv2d(3, STEM_CHANNELS, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem


def small_stem_code(name: str, stride: int) -> str:
    """Return a line of Python that gives torchvision's ResNet `name` the stem of this stride; empty for its own."""
    if stride == 4:
        return ""
    stem = f"torch.nn.Conv2d(3, {STEM_CHANNELS}, 3, {stride}, 1, bias=False)"
    return f"{name}.conv1, {name}.maxpool = {stem}, torch.nn.Identity()\n"


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(GROUPS, channels)
