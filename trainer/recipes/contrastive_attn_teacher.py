"""The paper's method: SimCLR whose backbone must also predict where the teacher says that people look."""

from trainer.config import ModelConfig
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone
from trainer.model.parts import AttentionPart, ContrastPart, Model, probe_parts
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None) -> Model:
    """Contrast, a probe, and the attention branch on the clean image (paper 3.3)."""
    backbone = Backbone(config.backbone, config.norm)
    contrast = ContrastPart(backbone.channels, config)
    attention = AttentionPart(config, AttentionReadout(config.select))
    return Model(backbone, [contrast, attention, *probe_parts(backbone.channels, classes, config)])


RECIPE = Recipe(build, paper={"resnet50": (68.23, 0.08)})
