"""SimCLR, the baseline: the attention read-out learns from detached features, so that it can be compared."""

from trainer.config import ModelConfig
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone
from trainer.model.parts import AttentionPart, ContrastPart, Model, probe_parts
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None) -> Model:
    """Contrast, a probe, and a read-out that tells the backbone nothing (paper 4.2)."""
    backbone = Backbone(config.backbone, config.norm)
    contrast = ContrastPart(backbone.channels, config)
    attention = AttentionPart(config, AttentionReadout(config.select), informs=False)
    return Model(backbone, [contrast, attention, *probe_parts(backbone.channels, classes, config)])


RECIPE = Recipe(build, paper={"resnet50": (67.61, 0.04)})
