"""Heads on a backbone's pooled features: those of SimCLR, VICReg and BYOL, and the linear probe."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from trainer.model.backbone import GROUPS, NormName

EMBEDDING_DIM = 128  # as in SimCLR


class ProjectionHead(nn.Module):
    """SimCLR's projection head: [B, channels] -> [B, 128], not normalized to unit length.

    Linear layers without bias, each followed by a norm, with ReLU in between. The last norm has a scale but no
    trainable offset.

    Args:
        channels: number of input channels, and of the hidden layers' channels.
        layers: number of linear layers.
        norm: batch norm or group norm.
    """

    def __init__(self, channels: int, layers: int = 2, norm: NormName = "batch") -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for _ in range(layers - 1):
            modules += [nn.Linear(channels, channels, bias=False), _make_norm(channels, norm), nn.ReLU(inplace=True)]
        modules += [nn.Linear(channels, EMBEDDING_DIM, bias=False), _make_norm(EMBEDDING_DIM, norm)]
        self.layers = nn.Sequential(*modules)
        self.layers[-1].bias.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.layers(features)
        return projected


class MLPHead(nn.Module):
    """Expander of VICReg, projector and predictor of BYOL: [B, sizes[0]] -> [B, sizes[-1]].

    Linear layers without bias, with a norm and ReLU between two of them, as in the code of both papers' authors, except
    that their hidden layers have a bias before the norm, which has no effect.

    Args:
        sizes: number of channels of the input and of each layer's output.
        norm: batch norm or group norm.
    """

    def __init__(self, sizes: Sequence[int], norm: NormName = "batch") -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for channels, size in itertools.pairwise(sizes):
            modules += [nn.Linear(channels, size, bias=False), _make_norm(size, norm), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*modules[:-2])

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.layers(features)
        return projected


class LinearProbe(nn.Module):
    """Linear classifier on stop-gradient features: [B, channels] -> [B, classes].

    With batch norm, the features are first standardized channel by channel. So the effect of a fixed learning rate
    depends neither on their scale, which grows while the backbone is trained, nor on their mean over all images.

    Args:
        channels: number of feature channels.
        classes: number of classes.
        norm: the backbone's norm; with group norm the features are not standardized.
    """

    def __init__(self, channels: int, classes: int, norm: NormName = "batch") -> None:
        super().__init__()
        self.standard = nn.BatchNorm1d(channels, affine=False) if norm == "batch" else nn.Identity()
        self.linear = nn.Linear(channels, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.standard(features.detach()))
        return scores

    def fold(self) -> dict[str, Tensor]:
        """Return the single linear layer that is equivalent to the probe in eval mode.

        The layer is `weight` [classes, channels] and `bias` [classes].
        """
        weight, bias = self.linear.weight.detach(), self.linear.bias.detach()
        if isinstance(self.standard, nn.modules.batchnorm._BatchNorm):  # also SyncBatchNorm
            assert self.standard.running_mean is not None
            assert self.standard.running_var is not None
            weight = weight / (self.standard.running_var + self.standard.eps).sqrt()
            bias = bias - weight @ self.standard.running_mean
        return {"weight": weight, "bias": bias}


def _make_norm(channels: int, norm: NormName) -> nn.Module:
    return nn.BatchNorm1d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)
