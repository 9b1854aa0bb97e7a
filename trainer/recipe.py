"""The description of what is trained: a model and, where they differ from SimCLR's, its views and optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from trainer.config import ModelConfig, TrainConfig
from trainer.data.augment import Draw, draw_augmentation
from trainer.data.dataset import Dataset
from trainer.optim import SIMCLR, OptimizerSpec

if TYPE_CHECKING:
    from trainer.objectives import Model

Check = Callable[[TrainConfig, int | None, int, bool], None]  # settings, classes, workers, compiled -> UserError
Prepare = Callable[["Model", Dataset, TrainConfig], None]


def _accept_all(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    pass


def _leave_as_built(model: "Model", data: Dataset, config: TrainConfig) -> None:
    pass


def check_map_size(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    """Raise UserError if the last stage's map has a single position: a `check` for recipes that predict that map."""
    stride = 8 * config.stem_stride  # pixels per position of the last stage
    if config.image_size <= stride:
        raise UserError(
            f"--image-size {config.image_size}: {config.recipe} predicts attention from the last stage's map, which "
            f"has a single position up to {stride} pixels and cannot be trained; choose more"
        )


@dataclass(frozen=True)
class Recipe:
    """A row of Table 1, one of its controls, or another objective.

    Attributes:
        build: function from settings and the number of classes (None without classes) to the model.
        views: one function per view that draws the augmentation of a random crop.
        optimizer: the optimizer and its learning rate rule.
        defaults: default values of settings that differ from `TrainConfig`'s.
        human_data: whether photographs with human fixations replace the shards' clean images.
        check: function of settings, number of classes, number of workers, and whether the network is compiled; raises
            UserError for combinations that the recipe does not support.
        prepare: function of model, data set and settings that completes a new model before its first step; must have
            the same effect on all ranks. A resumed run gets the result from its checkpoint.
        target: what `attention_cc` and the page of a run compare the model's attention maps with.
        paper: top-1 accuracy in percent in the paper's Table 1 by backbone: mean and standard error; without the latter
            the figure is that of the best run. Empty for recipes that are not rows of the paper's table.
    """

    build: "Callable[[ModelConfig, int | None], Model]"
    views: tuple[Draw, ...] = (draw_augmentation, draw_augmentation)
    optimizer: OptimizerSpec = SIMCLR
    defaults: Mapping[str, Any] = field(default_factory=dict)
    human_data: bool = False
    check: Check = _accept_all
    prepare: Prepare = _leave_as_built
    target: str = "teacher's map"
    paper: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
