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


class LinearProbe(nn.Linear):
    """A linear classifier that learns from features and tells them nothing: no gradient goes back."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.detach())


def _norm(channels: int, norm: NormName) -> nn.Module:
    return nn.BatchNorm1d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels)
