"""Rows of the paper's Table 1, controls and other objectives: each recipe is one short file, named like the recipe."""

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:  # listing the names must not import torch
    from trainer.config import ModelConfig
    from trainer.objectives import Model
    from trainer.recipe import Recipe

PAPER_ROWS = (  # the recipes with `paper` figures, in the order of Table 1
    "contrastive",
    "contrastive-attn-teacher",
    "contrastive-attn-cotrain",
    "contrastive-attn-block",
    "contrastive-self-mask",
    "contrastive-contracam",
    "supervised",
    "supervised-attn-teacher",
)


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted, as --recipe takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def get_recipe(name: str) -> "Recipe":
    """Return a recipe by name. Raises UserError for an unknown name."""
    recipe: Recipe = _import_recipe(name).RECIPE
    return recipe


def describe_recipe(name: str) -> str:
    """Return the first paragraph of a recipe's docstring. Raises UserError for an unknown name."""
    return str(_import_recipe(name).__doc__).strip().partition("\n\n")[0]


def build(name: str, config: "ModelConfig", classes: int | None) -> "Model":
    """Build the model of a recipe with random weights.

    Args:
        name: name of the recipe.
        config: settings of the model and its losses.
        classes: number of classes of its probe or classifier; None for a model without a probe.

    Raises UserError for an unknown name.
    """
    model = get_recipe(name).build(config, classes)
    model.statistics_of_clean = config.bn_statistics == "all"
    return model


def _import_recipe(name: str) -> ModuleType:
    if name not in recipe_names():
        raise UserError(f"--recipe {name}: expected one of {', '.join(recipe_names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
