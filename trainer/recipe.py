"""What a row of Table 1 is made of: a model of parts and, where they differ from SimCLR's, its views and optimiser."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from trainer.config import ModelConfig, TrainConfig
from trainer.data.augment import Draw, draw_augmentation
from trainer.optim import SIMCLR, OptimizerSpec

if TYPE_CHECKING:
    from trainer.objectives.base import Model

STRIDE = 32  # pixels of an image to a place of a ResNet's last stage


def _anything_goes(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    pass


def check_map_size(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    """A `check` of recipes whose prediction is a map of the last stage. Raises UserError where that has one place."""
    if config.image_size <= STRIDE:
        raise UserError(
            f"--image-size {config.image_size}: {config.recipe} predicts attention from the last stage's map, which "
            f"has a single place up to {STRIDE} pixels, and would learn nothing; choose more"
        )


@dataclass(frozen=True)
class Recipe:
    """A row of Table 1. `build` composes the model; a recipe that learns classes gets their number, None without.

    `views` draw what happens to each random crop of an image, `defaults` are settings that hold unless others are
    given, `human_data`: it looks at human-labelled images in place of the shards' clean ones. `check` raises UserError
    for settings, a number of classes or of workers, or compiling, that this recipe cannot do. `paper` has top-1 in % of
    the paper's Table 1 by backbone, mean and standard error; without the latter it is the best of all its runs.
    """

    build: "Callable[[ModelConfig, int | None], Model]"
    views: tuple[Draw, ...] = (draw_augmentation, draw_augmentation)
    optimisation: OptimizerSpec = SIMCLR
    defaults: Mapping[str, Any] = field(default_factory=dict)
    human_data: bool = False
    check: Callable[[TrainConfig, int | None, int, bool], None] = _anything_goes
    paper: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
