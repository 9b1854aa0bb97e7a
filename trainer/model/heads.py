"""What stands on a backbone's features: SimCLR's projection head, and the linear probe."""

from torch import Tensor, nn

from trainer.model.backbone import GROUPS, NormName

PROJECTION = 128


class ProjectionHead(nn.Module):
    """SimCLR's head: linear layers without bias, each with a norm, ReLU between; the last norm has no offset.

    [B, channels] -> [B, 128], not yet of length 1.
    """

    def __init__(self, channels: int, layers: int = 2, norm: NormName = "batch") -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for _ in range(layers - 1):
            modules += [nn.Linear(channels, channels, bias=False), _norm(channels, norm), nn.ReLU(inplace=True)]
        modules += [nn.Linear(channels, PROJECTION, bias=False), _norm(PROJECTION, norm)]
        self.layers = nn.Sequential(*modules)
        self.layers[-1].bias.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.layers(features)
        return projected


class LinearProbe(nn.Module):
    """A linear classifier that learns from features and tells them nothing: no gradient goes back.

    With batch norm the features are first standardised, channel by channel: what a fixed learning rate makes of them
    then depends neither on their scale, which grows while the backbone learns, nor on what all images have in common.
    [B, channels] -> [B, classes].
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

    def folded(self) -> dict[str, Tensor]:
        """`weight` [classes, channels] and `bias` of the one linear layer that does the same in evaluation."""
        weight, bias = self.linear.weight.detach(), self.linear.bias.detach()
        if isinstance(self.standard, nn.BatchNorm1d):
            assert self.standard.running_mean is not None
            assert self.standard.running_var is not None
            weight = weight / (self.standard.running_var + self.standard.eps).sqrt()
            bias = bias - weight @ self.standard.running_mean
        return {"weight": weight, "bias": bias}


def _norm(channels: int, norm: NormName) -> nn.Module:
    return nn.BatchNorm1d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)
