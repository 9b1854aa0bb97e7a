"""A control of contrastive-attn-teacher: the target of all images is the mean of the teacher's maps.

The mean is taken over 2,000 training images, drawn by seed, and stored in checkpoints. Whatever it gains over
`contrastive` does not need a target that depends on the image.
"""

from trainer.config import ModelConfig
from trainer.objectives import CenterTarget, Model
from trainer.objectives.mean_map import set_center_target
from trainer.recipe import Recipe
from trainer.recipes import contrastive_attn_teacher


def build(config: ModelConfig, classes: int | None) -> Model:
    """Build the model of contrastive-attn-teacher with the mean map as the target."""
    return contrastive_attn_teacher.build(config, classes, CenterTarget())


RECIPE = Recipe(build, prepare=set_center_target, target="mean map")
