"""A control of contrastive-attn-teacher: the target is low-level saliency of the image, its spectral residual.

The teacher's maps are not read. Whatever it gains over `contrastive` does not need human attention.
"""

from trainer.config import ModelConfig
from trainer.objectives import LowLevelTarget, Model
from trainer.recipe import Recipe
from trainer.recipes import contrastive_attn_teacher


def build(config: ModelConfig, classes: int | None) -> Model:
    """Build the model of contrastive-attn-teacher with spectral residuals as targets."""
    return contrastive_attn_teacher.build(config, classes, LowLevelTarget())


RECIPE = Recipe(build, target="spectral residual")
