"""What a recipe is composed of: parts that look at a backbone's features, and what each wants of them.

A part has two halves. `forward` turns features into outputs with one row an image, so that a batch may be computed in
pieces. `terms` turns the outputs of the whole batch into what is minimised; it holds no parameters.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.saliency import cc
from trainer.config import ModelConfig
from trainer.losses import attention_loss, nt_xent
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone, Features
from trainer.model.heads import LinearProbe, ProjectionHead

Outputs = dict[str, Tensor]


class Inputs(NamedTuple):
    """A batch on the device: two augmented views and the clean image, float [n, 3, S, S] in [0, 1]; the teacher's map
    [n, S, S] and gaze points; class indices [n]."""

    first: Tensor
    second: Tensor
    clean: Tensor
    attention: Tensor
    gaze: Sequence[Any]
    labels: Tensor


class Seen(NamedTuple):
    """What the backbone makes of both views, [2n] rows, the first views first; and of the clean images."""

    views: Features
    clean: Features
    size: tuple[int, int]


class Terms(NamedTuple):
    """What a part adds to the loss, and its figures for the log."""

    loss: Tensor
    figures: dict[str, Tensor]


class Part(nn.Module):
    """One thing that is learnt. `clean_informs`: does its gradient reach the backbone through the clean images?"""

    clean_informs = False

    def forward(self, seen: Seen) -> Outputs:
        raise NotImplementedError

    def terms(self, outputs: Outputs, inputs: Inputs) -> Terms:
        """Outputs of a whole batch -> loss and figures."""
        raise NotImplementedError

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor | None:
        """Where people look in clean images, [B, height, width], from parts that predict it."""
        return None

    def logits(self, pooled: Tensor) -> Tensor | None:
        """The scores of classes [B, classes], from parts that know them."""
        return None


class Model(nn.Module):
    """A backbone and the parts that learn with it."""

    def __init__(self, backbone: Backbone, parts: Sequence[Part]) -> None:
        super().__init__()
        self.backbone = backbone
        self.parts = nn.ModuleList(parts)

    def forward(self, first: Tensor, second: Tensor, clean: Tensor) -> Outputs:
        """Images of some rows of a batch -> outputs of these rows. Both views pass the backbone together."""
        views = self.backbone(torch.cat([first, second]))
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(part.clean_informs for part in self.parts)):
            whole = self.backbone(clean)
        seen = Seen(views, whole, (clean.shape[2], clean.shape[3]))
        outputs: Outputs = {}
        for part in self.parts:
            outputs |= part(seen)
        return outputs

    def terms(self, outputs: Outputs, inputs: Inputs) -> Terms:
        """The loss of a batch, the sum of its parts', and all figures."""
        parts = [part.terms(outputs, inputs) for part in self.parts]  # type: ignore[operator]
        loss = torch.stack([part.loss for part in parts]).sum()
        return Terms(loss, {name: value for part in parts for name, value in part.figures.items()})

    def features(self, images: Tensor) -> Tensor:
        """What a probe sees of images: float [B, 3, H, W] in [0, 1] -> [B, channels]."""
        pooled: Tensor = self.backbone(images).pooled
        return pooled

    def attention(self, images: Tensor) -> Tensor | None:
        """Where people look in clean images, [B, 3, H, W] -> [B, H, W], not negative; None without such a part."""
        clean, size = self.backbone(images), (images.shape[2], images.shape[3])
        return _first(part.attention(clean, size) for part in self.parts)  # type: ignore[operator]

    def logits(self, images: Tensor) -> Tensor | None:
        """The scores of classes, [B, 3, H, W] -> [B, classes]; None without probe or classifier."""
        pooled = self.features(images)
        return _first(part.logits(pooled) for part in self.parts)  # type: ignore[operator]

    def part(self, kind: type[Part]) -> Any:
        """The part of a kind, None where the recipe has none."""
        return next((part for part in self.parts if isinstance(part, kind)), None)


class ContrastPart(Part):
    """SimCLR: two views of an image are to be found among those of all others."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.head = ProjectionHead(channels, config.head_layers, config.norm)
        self._temperature, self._reduction = config.temperature, config.reduction

    def forward(self, seen: Seen) -> Outputs:
        first, second = self.head(seen.views.pooled).chunk(2)
        return {"first": first, "second": second}

    def terms(self, outputs: Outputs, inputs: Inputs) -> Terms:
        loss = nt_xent(outputs["first"], outputs["second"], self._temperature, self._reduction)
        return Terms(loss, {"contrastive": loss})


class AttentionPart(Part):
    """Predict the teacher's map of the clean image; `informs`: the backbone learns from it too."""

    def __init__(self, config: ModelConfig, informs: bool) -> None:
        super().__init__()
        self.clean_informs = informs
        self.readout = AttentionReadout(config.select)
        self._kld_weight, self._nss_weight = config.kld_weight, config.nss_weight

    def forward(self, seen: Seen) -> Outputs:
        return {"attention": self.attention(seen.clean, seen.size)}

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor:
        stages = clean.stages if self.clean_informs else [stage.detach() for stage in clean.stages]
        predicted: Tensor = self.readout(stages, size)
        return predicted

    def terms(self, outputs: Outputs, inputs: Inputs) -> Terms:
        terms = attention_loss(outputs["attention"], inputs.attention, inputs.gaze, self._kld_weight, self._nss_weight)
        agreement = cc(outputs["attention"].detach(), inputs.attention).mean()
        return Terms(terms.loss, {"kld": terms.kld, "nss": terms.nss, "attention_cc": agreement})


class ProbePart(Part):
    """The concurrent linear probe: what the features of the augmented views tell of the class, without telling back."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.probe = LinearProbe(channels, classes)

    def forward(self, seen: Seen) -> Outputs:
        first, second = self.probe(seen.views.pooled).chunk(2)
        return {"probe_first": first, "probe_second": second}

    def logits(self, pooled: Tensor) -> Tensor:
        scores: Tensor = self.probe(pooled)
        return scores

    def terms(self, outputs: Outputs, inputs: Inputs) -> Terms:
        logits = torch.cat([outputs["probe_first"], outputs["probe_second"]]).float()
        labels = torch.cat([inputs.labels, inputs.labels])
        accuracy = (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits, labels)
        return Terms(loss, {"probe_loss": loss, "probe_accuracy": accuracy})


def _first(found: Iterable[Tensor | None]) -> Tensor | None:
    return next((one for one in found if one is not None), None)


def probe_parts(channels: int, classes: int | None) -> list[Part]:
    """A probe where the data have classes."""
    return [] if classes is None else [ProbePart(channels, classes)]
