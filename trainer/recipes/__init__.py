"""The rows of the paper's Table 1. A recipe is a short file that says what it is made of; its name is the file's."""

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:  # names are listed without torch
    from trainer.config import ModelConfig
    from trainer.objectives import Model
    from trainer.recipe import Recipe


def recipe_names() -> list[str]:
    """All recipes, as --recipe takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def get_recipe(name: str) -> "Recipe":
    """A recipe by name. Raises UserError."""
    found: Recipe = _module(name).RECIPE
    return found


def describe_recipe(name: str) -> str:
    """What a recipe is, as its file begins. Raises UserError."""
    return str(_module(name).__doc__).strip().partition("\n\n")[0]


def _module(name: str) -> ModuleType:
    if name not in recipe_names():
        raise UserError(f"--recipe {name}: expected one of {', '.join(recipe_names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def build(name: str, config: "ModelConfig", classes: int | None) -> "Model":
    """The model of a recipe; `classes` is the number that its probe or classifier knows. Raises UserError."""
    return get_recipe(name).build(config, classes)
