"""The paper's method: SimCLR whose backbone must also predict the teacher's attention maps."""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.objectives import ContrastiveObjective, Model, compose_model
from trainer.objectives.attention_targets import AttentionTarget
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None, target: AttentionTarget | None = None) -> Model:
    """Compose contrast, a probe, and the attention branch on the clean images (paper 3.3).

    `target` replaces the teacher's maps.
    """
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    contrast = ContrastiveObjective(backbone.channels, config)
    return compose_model(backbone, contrast, config, classes, target=target)


RECIPE = Recipe(build, paper={"resnet50": (68.23, 0.08)})
