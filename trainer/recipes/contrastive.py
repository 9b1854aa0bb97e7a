"""The baseline SimCLR, with an attention read-out on detached features that does not affect the backbone."""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.objectives import ContrastiveObjective, Model, compose_model
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None) -> Model:
    """Compose the contrastive objective, a probe, and the read-out on detached features (paper 4.2)."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    contrast = ContrastiveObjective(backbone.channels, config)
    return compose_model(backbone, contrast, config, classes, guides_backbone=False)


RECIPE = Recipe(build, paper={"resnet50": (67.61, 0.04)})
