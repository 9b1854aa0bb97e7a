"""A control of contrastive-attn-teacher: the target of each image is the teacher's map of another image of its batch.

Whatever it gains over `contrastive` does not need maps that fit the images.
"""

from common.errors import UserError
from trainer.config import ModelConfig, TrainConfig
from trainer.objectives import Model, PermutedTarget
from trainer.recipe import Recipe
from trainer.recipes import contrastive_attn_teacher


def build(config: ModelConfig, classes: int | None) -> Model:
    """Build the model of contrastive-attn-teacher with permuted targets."""
    return contrastive_attn_teacher.build(config, classes, PermutedTarget())


def check(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    """Raise UserError if a worker has only one image per step."""
    if config.batch_size < 2 * workers:
        raise UserError(
            f"--batch-size {config.batch_size}: {config.recipe} exchanges the maps of a worker's images, so each of "
            f"{workers} workers needs two or more; choose {2 * workers} or more"
        )


RECIPE = Recipe(build, check=check, target="another image's map")
