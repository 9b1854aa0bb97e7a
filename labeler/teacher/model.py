"""The teacher network: where would people look?

The network of the paper's Fig. 2a as its authors published it (github.com/google/attention-center):
MobileNetV3-small up to its ninth block with GroupNorm, and a small saliency branch on each of four depths.
TensorFlow conventions (SAME padding, legacy bilinear resizing) are kept, so that the published weights give the
published maps.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_SIZE = (480, 640)  # height, width of SALICON's images, at which the network was trained
GROUPS = 8
EPSILON = 1e-6


def resize_to_input(picture: Tensor) -> Tensor:
    """The whole picture as the teacher sees it, stretched to its size: uint8 [3, H, W] -> uint8 [3, 480, 640]."""
    return F.interpolate(picture[None], INPUT_SIZE, mode="bicubic", antialias=True)[0]


class BlockSpec(NamedTuple):
    """One row of MobileNetV3-small's table; `expand` and `squeeze` are channel counts, 0 where the part is absent."""

    kernel: int
    expand: int
    out: int
    squeeze: int
    activation: type[nn.Module]
    stride: int
    tap: bool = False  # a saliency branch reads this block's output


STEM_CHANNELS = 16
BLOCKS = (
    BlockSpec(3, 0, 16, 8, nn.ReLU, 2),
    BlockSpec(3, 72, 24, 0, nn.ReLU, 2),
    BlockSpec(3, 88, 24, 0, nn.ReLU, 1, tap=True),
    BlockSpec(5, 96, 40, 24, nn.Hardswish, 2),
    BlockSpec(5, 240, 40, 64, nn.Hardswish, 1, tap=True),
    BlockSpec(5, 240, 40, 64, nn.Hardswish, 1),
    BlockSpec(5, 120, 48, 32, nn.Hardswish, 1, tap=True),
    BlockSpec(5, 144, 48, 40, nn.Hardswish, 1),
    BlockSpec(5, 288, 96, 72, nn.Hardswish, 2, tap=True),
)


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: what is uneven goes to the bottom and the right."""

    def forward(self, features: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        totals = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in features.shape[-2:]]
        height, width = totals
        if height % 2 or width % 2:
            features = F.pad(features, (width // 2, width - width // 2, height // 2, height - height // 2))
            padding = (0, 0)
        else:
            padding = (height // 2, width // 2)
        return F.conv2d(features, self.weight, self.bias, self.stride, padding, groups=self.groups)


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its GroupNorm."""
    return nn.Sequential(
        SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False),
        nn.GroupNorm(GROUPS, outputs, eps=EPSILON),
    )


class SqueezeExcite(nn.Module):
    """Weigh the channels by what the whole image shows."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean((2, 3), keepdim=True)
        return features * F.hardsigmoid(self.expand(F.relu(self.reduce(pooled))))


class InvertedResidual(nn.Module):
    """MobileNetV3's block: expand, convolve each channel alone, weigh the channels, project."""

    def __init__(self, inputs: int, spec: BlockSpec) -> None:
        super().__init__()
        width = spec.expand or inputs
        layers: list[nn.Module] = []
        if spec.expand:
            layers += [conv_norm(inputs, width, 1), spec.activation(inplace=True)]
        layers += [conv_norm(width, width, spec.kernel, spec.stride, groups=width), spec.activation(inplace=True)]
        if spec.squeeze:
            layers += [SqueezeExcite(width, spec.squeeze)]
        layers += [conv_norm(width, spec.out, 1)]
        self.layers = nn.Sequential(*layers)
        self.residual = spec.stride == 1 and inputs == spec.out

    def forward(self, features: Tensor) -> Tensor:
        output = self.layers(features)
        return output + features if self.residual else output


class SaliencyBranch(nn.Module):
    """One depth's say: three channels, their local maxima, one weighted sum. No activation follows it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detect = SameConv(channels, 3, 3)
        self.combine = nn.Conv2d(3, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        detected = self.detect(F.relu(features))
        return self.combine(F.max_pool2d(detected, 3, stride=1, padding=1))


class AttentionTeacher(nn.Module):
    """Predict a saliency map from a photograph (paper Fig. 2a; 289 k parameters).

    Input: RGB in [0, 1], no mean or standard deviation, float [B, 3, H, W]; trained at H x W = 480 x 640.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = [STEM_CHANNELS, *(spec.out for spec in BLOCKS)]
        self.stem = nn.Sequential(conv_norm(3, STEM_CHANNELS, 3, 2), nn.Hardswish(inplace=True))
        self.blocks = nn.ModuleList(InvertedResidual(width, spec) for width, spec in zip(widths, BLOCKS, strict=False))
        self.branches = nn.ModuleList(SaliencyBranch(spec.out) for spec in BLOCKS if spec.tap)

    def logits(self, images: Tensor) -> Tensor:
        """The summed branches before the sigmoid: [B, 3, H, W] -> [B, H, W], fp32."""
        features = self.stem(images.contiguous(memory_format=torch.channels_last))
        taps = []
        for block, spec in zip(self.blocks, BLOCKS, strict=True):
            features = block(features)
            if spec.tap:
                taps.append(features)
        height, width = images.shape[-2:]
        maps = [branch(tap) for branch, tap in zip(self.branches, taps, strict=True)]
        with torch.autocast(images.device.type, enabled=False):
            return sum_resized([single[:, 0].float() for single in maps], height, width)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Maps divided by their maximum, and that maximum: [B, 3, H, W] -> [B, H, W] in (0, 1], [B], both fp32."""
        maps = self.logits(images).sigmoid()
        maxima = maps.amax((1, 2))
        return maps / maxima[:, None, None], maxima

    def forward(self, images: Tensor) -> Tensor:
        """Maps divided by their maximum: [B, 3, H, W] -> [B, H, W] in (0, 1], fp32."""
        return self.predict(images)[0]


def sum_resized(maps: list[Tensor], height: int, width: int) -> Tensor:
    """Resize each [B, h, w] to [B, height, width] as TensorFlow 1 did, and add them up."""
    total = torch.zeros((), device=maps[0].device)
    for single in maps:
        rows = legacy_bilinear(single.shape[1], height, single)
        columns = legacy_bilinear(single.shape[2], width, single)
        total = total + rows @ single @ columns.T
    return total


def legacy_bilinear(source: int, target: int, like: Tensor) -> Tensor:
    """The matrix [target, source] of TensorFlow 1's bilinear resize: pixel i is read at i * source / target.

    (`align_corners=False, half_pixel_centers=False`; the last source pixel is repeated beyond the edge.)
    """
    position = torch.arange(target, device=like.device, dtype=torch.float64) * source / target
    left = position.floor().long()
    right = (left + 1).clamp(max=source - 1)
    share = (position - left).to(like.dtype)
    eye = torch.eye(source, device=like.device, dtype=like.dtype)
    return eye[left] * (1 - share)[:, None] + eye[right] * share[:, None]
