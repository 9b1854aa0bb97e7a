"""The teacher network, which predicts from a photograph where people look.

The architecture is that of github.com/google/attention-center: MobileNetV3-small up to its ninth block, with
GroupNorm, and a small saliency branch at each of four depths. Padding ("SAME") and resizing (legacy bilinear) follow
TensorFlow, so that the published weights yield the published maps.

It differs from section 3.2 and Fig. 2a of the paper in three ways. The first convolution of a branch has three
channels, not as many as its input, and its ReLU comes before it. The last convolution has no ReLU: after one, the
sigmoid would be at least 0.5 everywhere. And each map is divided by its maximum.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_SIZE = (480, 640)  # height, width of SALICON's images, on which the network was trained
NORM_GROUPS = 8
NORM_EPSILON = 1e-6  # TensorFlow's, not PyTorch's default


def resize_to_input(image: Tensor) -> Tensor:
    """Resize a whole image to the teacher's input size, ignoring its aspect ratio.

    uint8 [3, H, W] -> uint8 [3, 480, 640]; bicubic, antialiased.
    """
    return F.interpolate(image[None], INPUT_SIZE, mode="bicubic", antialias=True)[0]


class BlockSpec(NamedTuple):
    """Configuration of one inverted residual block: one row of MobileNetV3-small's table."""

    kernel: int
    expanded_channels: int  # 0: no expansion layer
    out_channels: int
    squeezed_channels: int  # 0: no squeeze-excite
    activation: type[nn.Module]
    stride: int
    has_branch: bool = False  # a saliency branch reads this block's output


STEM_CHANNELS = 16
BLOCKS = (
    BlockSpec(3, 0, 16, 8, nn.ReLU, 2),
    BlockSpec(3, 72, 24, 0, nn.ReLU, 2),
    BlockSpec(3, 88, 24, 0, nn.ReLU, 1, has_branch=True),
    BlockSpec(5, 96, 40, 24, nn.Hardswish, 2),
    BlockSpec(5, 240, 40, 64, nn.Hardswish, 1, has_branch=True),
    BlockSpec(5, 240, 40, 64, nn.Hardswish, 1),
    BlockSpec(5, 120, 48, 32, nn.Hardswish, 1, has_branch=True),
    BlockSpec(5, 144, 48, 40, nn.Hardswish, 1),
    BlockSpec(5, 288, 96, 72, nn.Hardswish, 2, has_branch=True),
)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: an odd row or column of padding goes to the bottom or right."""

    def forward(self, features: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in features.shape[-2:])
        if height % 2 or width % 2:
            features = F.pad(features, (width // 2, width - width // 2, height // 2, height - height // 2))
            padding = (0, 0)
        else:
            padding = (height // 2, width // 2)
        return F.conv2d(features, self.weight, self.bias, self.stride, padding, groups=self.groups)


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution without bias followed by GroupNorm."""
    return nn.Sequential(
        SameConv(in_channels, out_channels, kernel, stride, groups=groups, bias=False),
        nn.GroupNorm(NORM_GROUPS, out_channels, eps=NORM_EPSILON),
    )


class SqueezeExcite(nn.Module):
    """Squeeze-excite: scale each channel by a gate computed from the globally pooled features."""

    def __init__(self, channels: int, squeezed_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed_channels, 1)
        self.expand = nn.Conv2d(squeezed_channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean((2, 3), keepdim=True)
        return features * F.hardsigmoid(self.expand(F.relu(self.reduce(pooled))))


class InvertedResidual(nn.Module):
    """MobileNetV3's inverted residual block: expansion, depthwise convolution, squeeze-excite, projection."""

    def __init__(self, in_channels: int, spec: BlockSpec) -> None:
        super().__init__()
        width = spec.expanded_channels or in_channels
        layers: list[nn.Module] = []
        if spec.expanded_channels:
            layers += [conv_norm(in_channels, width, 1), spec.activation(inplace=True)]
        layers += [conv_norm(width, width, spec.kernel, spec.stride, groups=width), spec.activation(inplace=True)]
        if spec.squeezed_channels:
            layers += [SqueezeExcite(width, spec.squeezed_channels)]
        layers += [conv_norm(width, spec.out_channels, 1)]
        self.layers = nn.Sequential(*layers)
        self.residual = spec.stride == 1 and in_channels == spec.out_channels

    def forward(self, features: Tensor) -> Tensor:
        output = self.layers(features)
        return output + features if self.residual else output


class SaliencyBranch(nn.Module):
    """Saliency head for one feature level: [B, C, h, w] -> [B, 1, h, w] logits.

    A 3x3 convolution to three channels, 3x3 max pooling, and a 1x1 convolution without activation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detect = SameConv(channels, 3, 3)
        self.combine = nn.Conv2d(3, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        detected = self.detect(F.relu(features))
        return self.combine(F.max_pool2d(detected, 3, stride=1, padding=1))


class TeacherModel(nn.Module):
    """Base class of teachers: networks that predict one attention map per image."""

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return each map divided by its maximum, and these maxima.

        Args:
            images: RGB in [0, 1] without further normalization, float [B, 3, H, W].

        Returns maps [B, h, w] whose maximum is 1, and the maxima [B] of the maps before the division; both float32.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return each map divided by its maximum, [B, 3, H, W] -> [B, h, w]."""
        return self.predict(images)[0]


class AttentionTeacher(TeacherModel):
    """The saliency network, with 289,000 parameters.

    Takes images of any size; it is trained at 480 x 640. The maps are as large as the images, with values in (0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        in_channels = [STEM_CHANNELS, *(spec.out_channels for spec in BLOCKS[:-1])]
        self.stem = nn.Sequential(conv_norm(3, STEM_CHANNELS, 3, 2), nn.Hardswish(inplace=True))
        self.blocks = nn.ModuleList(
            InvertedResidual(channels, spec) for channels, spec in zip(in_channels, BLOCKS, strict=True)
        )
        self.branches = nn.ModuleList(SaliencyBranch(spec.out_channels) for spec in BLOCKS if spec.has_branch)

    def logits(self, images: Tensor) -> Tensor:
        """Return the sum of the branches before the sigmoid, [B, 3, H, W] -> float32 [B, H, W]."""
        features = self.stem(images.contiguous(memory_format=torch.channels_last))
        levels = []
        for block, spec in zip(self.blocks, BLOCKS, strict=True):
            features = block(features)
            if spec.has_branch:
                levels.append(features)
        height, width = images.shape[-2:]
        maps = [branch(level) for branch, level in zip(self.branches, levels, strict=True)]
        with torch.autocast(images.device.type, enabled=False):
            return resize_and_sum([level_map[:, 0].float() for level_map in maps], height, width)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.logits(images).sigmoid()
        maxima = maps.amax((1, 2))
        return maps / maxima[:, None, None], maxima


def resize_and_sum(maps: list[Tensor], height: int, width: int) -> Tensor:
    """Resize maps [B, h, w] of different sizes as TensorFlow 1 does, and return their sum [B, height, width]."""
    total = torch.zeros((), device=maps[0].device)
    for level_map in maps:
        rows = legacy_bilinear_matrix(level_map.shape[1], height, level_map)
        columns = legacy_bilinear_matrix(level_map.shape[2], width, level_map)
        total = total + rows @ level_map @ columns.T
    return total


def legacy_bilinear_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Return the matrix [target, source] of TensorFlow 1's bilinear resize along one axis.

    Output pixel i is read at input position i * source / target (`align_corners=False, half_pixel_centers=False`);
    beyond the edge the last input pixel is repeated. Device and dtype are those of `like`.
    """
    position = torch.arange(target, device=like.device, dtype=torch.float64) * source / target
    left = position.floor().long()
    right = (left + 1).clamp(max=source - 1)
    fraction = (position - left).to(like.dtype)
    identity = torch.eye(source, device=like.device, dtype=like.dtype)
    return identity[left] * (1 - fraction)[:, None] + identity[right] * fraction[:, None]
