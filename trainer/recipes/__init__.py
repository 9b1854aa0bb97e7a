"""The rows of the paper's Table 1. A recipe is a short file that composes a model of parts; its name is the file's."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:  # names are listed without torch
    from trainer.config import ModelConfig
    from trainer.model.parts import Model


def recipe_names() -> list[str]:
    """All recipes, as --recipe takes them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def build(recipe: str, config: "ModelConfig", classes: int | None) -> "Model":
    """The model of a recipe; `classes` is the number that its probe or classifier knows. Raises UserError."""
    if recipe not in recipe_names():
        raise UserError(f"--recipe {recipe}: expected one of {', '.join(recipe_names())}")
    module = importlib.import_module(f"{__name__}.{recipe.replace('-', '_')}")
    model: Model = module.build(config, classes)
    return model
