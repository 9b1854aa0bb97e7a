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
from trainer.model.backbone import Backbone, Features
from trainer.model.heads import LinearProbe, ProjectionHead

Outputs = dict[str, Tensor]


class ModelInputs(NamedTuple):
    """A batch on the device: augmented views, each float [n, 3, S, S] in [0, 1], and class indices [n]; m clean images,
    the same ones or others, with their maps [m, S, S] and gaze points."""

    views: tuple[Tensor, ...]
    clean: Tensor
    attention: Tensor
    gaze: Sequence[Any]
    labels: Tensor


class EncodedBatch(NamedTuple):
    """What the backbone makes of the views, first ones first; and of the clean images, where a part looks at them."""

    views: Features
    clean: Features | None
    size: tuple[int, int]


class LossTerms(NamedTuple):
    """What a part adds to the loss, and its figures for the log."""

    loss: Tensor
    figures: dict[str, Tensor]


class Objective(nn.Module):
    """One thing that is learnt. `sees_clean`: does it look at clean images? `clean_informs`: does its gradient reach
    the backbone through them?"""

    sees_clean = False
    clean_informs = False

    def forward(self, seen: EncodedBatch) -> Outputs:
        raise NotImplementedError

    def terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        """Outputs of a whole batch -> loss and figures."""
        raise NotImplementedError

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor | None:
        """Where people look in clean images, [B, height, width], from parts that predict it."""
        return None

    def logits(self, pooled: Tensor) -> Tensor | None:
        """The scores of classes [B, classes], from parts that know them."""
        return None

    def classifier(self) -> dict[str, Tensor] | None:
        """`weight` [classes, channels] and `bias` of the linear layer that gives these scores in evaluation."""
        return None


class Model(nn.Module):
    """A backbone, the parts that learn with it, and perhaps a `block` that changes the features which they see."""

    def __init__(self, backbone: Backbone, parts: Sequence[Objective], block: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.block = block or nn.Identity()
        self.parts = nn.ModuleList(parts)

    def forward(self, views: Sequence[Tensor], clean: Tensor) -> Outputs:
        """Images of some rows of a batch -> outputs of these rows. All views pass the backbone together."""
        of_views, of_clean = self.encode(torch.cat(list(views))), None
        if any(part.sees_clean for part in self.parts):
            with torch.set_grad_enabled(torch.is_grad_enabled() and any(part.clean_informs for part in self.parts)):
                of_clean = self.encode(clean)
        seen = EncodedBatch(of_views, of_clean, (clean.shape[2], clean.shape[3]))
        outputs: Outputs = {}
        for part in self.parts:
            outputs |= part(seen)
        return outputs

    def terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        """The loss of a batch, the sum of its parts', and all figures."""
        parts = [part.terms(outputs, inputs) for part in self.parts]  # type: ignore[operator]
        loss = torch.stack([part.loss for part in parts]).sum()
        return LossTerms(loss, {name: value for part in parts for name, value in part.figures.items()})

    def features(self, images: Tensor) -> Tensor:
        """What a probe sees of images: float [B, 3, H, W] in [0, 1] -> [B, channels]."""
        return self.encode(images).pooled

    def attention(self, images: Tensor) -> Tensor | None:
        """Where people look in clean images, [B, 3, H, W] -> [B, H, W], not negative; None without such a part."""
        return self.attention_of(self.encode(images), (images.shape[2], images.shape[3]))

    def logits(self, images: Tensor) -> Tensor | None:
        """The scores of classes, [B, 3, H, W] -> [B, classes]; None without probe or classifier."""
        return self.logits_of(self.features(images))

    def encode(self, images: Tensor) -> Features:
        """What the parts see of images, after the block where there is one."""
        features: Features = self.block(self.backbone(images))
        return features

    def attention_of(self, clean: Features, size: tuple[int, int]) -> Tensor | None:
        """`attention` of images that are encoded already."""
        return _first(part.attention(clean, size) for part in self.parts)  # type: ignore[operator]

    def logits_of(self, pooled: Tensor) -> Tensor | None:
        """`logits` of images that are encoded already."""
        return _first(part.logits(pooled) for part in self.parts)  # type: ignore[operator]

    def part(self, kind: type[Objective]) -> Any:
        """The part of a kind, None where the recipe has none."""
        return next((part for part in self.parts if isinstance(part, kind)), None)


class ContrastiveObjective(Objective):
    """SimCLR: two views of an image are to be found among those of all others."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.head = ProjectionHead(channels, config.head_layers, config.norm)
        self._temperature, self._reduction = config.temperature, config.reduction

    def forward(self, seen: EncodedBatch) -> Outputs:
        first, second = self.head(seen.views.pooled).chunk(2)
        return {"first": first, "second": second}

    def terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        loss = nt_xent(outputs["first"], outputs["second"], self._temperature, self._reduction)
        return LossTerms(loss, {"contrastive": loss})


class AttentionObjective(Objective):
    """Predict where people look in clean images; `informs`: the backbone learns from it too.

    `readout` makes the prediction, (features, size) -> [B, height, width]. Its figures are kld, nss and attention_cc,
    which `source` precedes: whose attention it is, if not the teacher's.
    """

    sees_clean = True

    def __init__(self, config: ModelConfig, readout: nn.Module, informs: bool = True, source: str = "") -> None:
        super().__init__()
        self.clean_informs = informs
        self.readout = readout
        self._kld_weight, self._nss_weight, self._source = config.kld_weight, config.nss_weight, source

    def forward(self, seen: EncodedBatch) -> Outputs:
        assert seen.clean is not None
        return {"attention": self.attention(seen.clean, seen.size)}

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor:
        predicted: Tensor = self.readout(clean if self.clean_informs else clean.detached(), size)
        return predicted

    def terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        terms = attention_loss(outputs["attention"], inputs.attention, inputs.gaze, self._kld_weight, self._nss_weight)
        agreement = cc(outputs["attention"].detach(), inputs.attention).mean()
        figures = {"kld": terms.kld, "nss": terms.nss, "attention_cc": agreement}
        return LossTerms(terms.loss, {self._source + name: figure for name, figure in figures.items()})


class ProbeObjective(Objective):
    """The concurrent linear probe: what the features of the augmented views tell of the class, without telling back."""

    def __init__(self, channels: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.probe = LinearProbe(channels, classes, config.norm)

    def forward(self, seen: EncodedBatch) -> Outputs:
        first, second = self.probe(seen.views.pooled).chunk(2)
        return {"probe_first": first, "probe_second": second}

    def logits(self, pooled: Tensor) -> Tensor:
        scores: Tensor = self.probe(pooled)
        return scores

    def classifier(self) -> dict[str, Tensor]:
        return self.probe.folded()

    def terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        logits = torch.cat([outputs["probe_first"], outputs["probe_second"]]).float()
        labels = torch.cat([inputs.labels, inputs.labels])
        accuracy = (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits, labels)
        return LossTerms(loss, {"probe_loss": loss, "probe_accuracy": accuracy})


def _first(found: Iterable[Tensor | None]) -> Tensor | None:
    return next((one for one in found if one is not None), None)


def probe_objectives(channels: int, classes: int | None, config: ModelConfig) -> list[Objective]:
    """A probe where the data have classes."""
    return [] if classes is None else [ProbeObjective(channels, classes, config)]
