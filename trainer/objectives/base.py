"""The interface of objectives, and the model that trains one backbone with several of them.

An objective has two halves. `forward` maps features to outputs with one row per image, so that a batch can be computed
in pieces (GradCache). `loss_terms` maps the outputs of the whole batch to a loss; it holds no parameters.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from trainer.model.backbone import Backbone, Features
from trainer.model.batch_norm import frozen_statistics

Outputs = dict[str, Tensor]
Kind = TypeVar("Kind", bound="Objective")


class ModelInputs(NamedTuple):
    """A batch on the device, ready for the model.

    Attributes:
        views: augmented views of n images, float [n, 3, S, S] in [0, 1] each.
        clean: m images without augmentation, float [m, 3, S, S] in [0, 1]; the images of `views`, or others.
        attention: attention maps of the clean images, float [m, S, S] in [0, 1].
        gaze: gaze points of the clean images, m arrays [k, 2 or more] of x, y in [0, 1].
        labels: class indices of the images of `views`, int64 [n].
        seed: seed of what objectives draw for this batch; it differs between runs, steps and ranks.
    """

    views: tuple[Tensor, ...]
    clean: Tensor
    attention: Tensor
    gaze: Sequence[Any]
    labels: Tensor
    seed: tuple[int, ...] = (0,)


class EncodedBatch(NamedTuple):
    """Features of a batch.

    Attributes:
        views: features of all views: all first views, then all second views.
        clean: features of the clean images; None if no objective uses them.
        size: height and width of the clean images in pixels.
        images: the views themselves, in the same order, float [2n, 3, S, S] in [0, 1] if there are two.
    """

    views: Features
    clean: Features | None
    size: tuple[int, int]
    images: Tensor


class LossTerms(NamedTuple):
    """An objective's contribution to the loss, and the scalars that it logs, by metric name."""

    loss: Tensor
    figures: dict[str, Tensor]


class Objective(nn.Module):
    """Base class of objectives.

    Attributes:
        uses_clean: whether the objective takes the features of the clean images instead of those of the views.
        guides_backbone: whether its gradient with respect to the clean images' features reaches the backbone.
    """

    uses_clean = False
    guides_backbone = False

    def forward(self, encoded: EncodedBatch) -> Outputs:
        """Compute outputs with one row per image. The names must differ from those of other objectives."""
        raise NotImplementedError

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        """Compute loss and logged scalars from the outputs of all objectives for the whole batch."""
        raise NotImplementedError

    def after_step(self, backbone: Backbone, progress: float) -> None:
        """Update what is not trained by gradients, after each step of the optimizer.

        Args:
            backbone: the network that the step has changed.
            progress: number of steps before this one as a fraction of the run's.
        """

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor | None:
        """Predict attention maps [B, height, width] of clean images; None if the objective predicts none."""
        return None

    def logits(self, pooled: Tensor) -> Tensor | None:
        """Compute class scores [B, classes] from pooled features [B, channels]; None without a classifier."""
        return None

    def classifier(self) -> dict[str, Tensor] | None:
        """Return the linear layer that gives `logits` in eval mode; None without a classifier.

        The layer is `weight` [classes, channels] and `bias` [classes].
        """
        return None


class Model(nn.Module):
    """A backbone trained with several objectives.

    Args:
        backbone: the network to be trained.
        objectives: what is minimized; their losses are added.
        block: module applied to the backbone's features before the objectives, such as an attention block.

    Attributes:
        statistics_of_clean: whether clean images, too, update the running statistics of batch norm, as in runs of
            earlier versions. SimCLR has only augmented views, so without it all recipes have SimCLR's statistics.
    """

    def __init__(self, backbone: Backbone, objectives: Sequence[Objective], block: nn.Module | None = None) -> None:
        super().__init__()
        self.statistics_of_clean = False
        self.backbone = backbone
        self.block = block or nn.Identity()
        self.parts = nn.ModuleList(objectives)  # the attribute's name is part of the checkpoint format

    @property
    def objectives(self) -> Iterator[Objective]:
        """The objectives, in the order of the recipe."""
        return iter(cast(Iterable[Objective], self.parts))

    def forward(self, views: Sequence[Tensor], clean: Tensor) -> Outputs:
        """Compute the outputs of all objectives for some rows of a batch.

        Args:
            views: augmented views, float [n, 3, S, S] in [0, 1] each; all pass the backbone in one call.
            clean: clean images, float [m, 3, S, S] in [0, 1].
        """
        images = torch.cat(list(views))
        encoded_views, encoded_clean = self.encode(images), None
        if any(objective.uses_clean for objective in self.objectives):
            guided = any(objective.guides_backbone for objective in self.objectives)
            with torch.set_grad_enabled(torch.is_grad_enabled() and guided), self._pass_of_clean():
                encoded_clean = self.encode(clean)
        encoded = EncodedBatch(encoded_views, encoded_clean, (clean.shape[2], clean.shape[3]), images)
        outputs: Outputs = {}
        for objective in self.objectives:
            with self._pass_of_clean() if objective.uses_clean else contextlib.nullcontext():
                outputs |= objective(encoded)
        return outputs

    def _pass_of_clean(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.statistics_of_clean else frozen_statistics(self)

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        """Add up the losses of all objectives, and merge the scalars that they log."""
        terms = [objective.loss_terms(outputs, inputs) for objective in self.objectives]
        loss = torch.stack([term.loss for term in terms]).sum()
        return LossTerms(loss, {name: value for term in terms for name, value in term.figures.items()})

    def after_step(self, progress: float) -> None:
        """Call `after_step` of all objectives."""
        for objective in self.objectives:
            objective.after_step(self.backbone, progress)

    def features(self, images: Tensor) -> Tensor:
        """Compute pooled features [B, channels] of images, float [B, 3, H, W] in [0, 1]."""
        return self.encode(images).pooled

    def attention(self, images: Tensor) -> Tensor | None:
        """Predict non-negative attention maps [B, H, W] of clean images [B, 3, H, W]; None if no objective does."""
        return self.attention_of(self.encode(images), (images.shape[2], images.shape[3]))

    def logits(self, images: Tensor) -> Tensor | None:
        """Compute class scores [B, classes] of images [B, 3, H, W]; None without probe or classifier."""
        return self.logits_of(self.features(images))

    def encode(self, images: Tensor) -> Features:
        """Compute the features that the objectives receive: those of the backbone, after the block if there is one."""
        features: Features = self.block(self.backbone(images))
        return features

    def attention_of(self, clean: Features, size: tuple[int, int]) -> Tensor | None:
        """Predict attention maps [B, height, width] from features; None if no objective does."""
        return _first_tensor(objective.attention(clean, size) for objective in self.objectives)

    def logits_of(self, pooled: Tensor) -> Tensor | None:
        """Compute class scores [B, classes] from pooled features [B, channels]; None without probe or classifier."""
        return _first_tensor(objective.logits(pooled) for objective in self.objectives)

    def objective(self, kind: type[Kind]) -> Kind | None:
        """Return the first objective of a type; None if the recipe has none."""
        return next((objective for objective in self.objectives if isinstance(objective, kind)), None)


def _first_tensor(candidates: Iterable[Tensor | None]) -> Tensor | None:
    return next((candidate for candidate in candidates if candidate is not None), None)
