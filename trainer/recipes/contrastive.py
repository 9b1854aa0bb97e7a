"""SimCLR, the baseline: the attention read-out learns from detached features, so that it can be compared."""

from trainer.config import ModelConfig
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone
from trainer.objectives import AttentionObjective, ContrastiveObjective, Model, probe_objectives
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None) -> Model:
    """Contrast, a probe, and a read-out that tells the backbone nothing (paper 4.2)."""
    backbone = Backbone(config.backbone, config.norm)
    contrast = ContrastiveObjective(backbone.channels, config)
    attention = AttentionObjective(config, AttentionReadout(config.select), guides_backbone=False)
    return Model(backbone, [contrast, attention, *probe_objectives(backbone.channels, classes, config)])


RECIPE = Recipe(build, paper={"resnet50": (67.61, 0.04)})
