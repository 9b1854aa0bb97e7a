"""SimCLR on masked features: a block masks the last stage before pooling, and the teacher's maps guide its mask.

The block is no part of torchvision's layout: an exported backbone is without it.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.model.block import AttentionBlock, MaskPart, MaskReadout
from trainer.model.parts import AttentionPart, ContrastPart, Model, probe_parts
from trainer.recipe import Recipe, maps_have_places


def build(config: ModelConfig, classes: int | None) -> Model:
    """Contrast and a probe on masked features; the mask of the clean image is the attention branch (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm)
    contrast = ContrastPart(backbone.channels, config)
    attention = AttentionPart(config, MaskReadout())
    parts = [contrast, attention, MaskPart(), *probe_parts(backbone.channels, classes, config)]
    return Model(backbone, parts, AttentionBlock(backbone.channels))


RECIPE = Recipe(build, check=maps_have_places, paper={"resnet50": (61.15, None)})
