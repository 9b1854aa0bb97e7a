"""SimCLR on masked features: the contrastive loss alone says what the block masks.

The block is no part of torchvision's layout: an exported backbone is without it.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.model.block import AttentionBlock, MaskPart
from trainer.model.parts import ContrastPart, Model, probe_parts
from trainer.recipe import Recipe, maps_have_places


def build(config: ModelConfig, classes: int | None) -> Model:
    """Contrast and a probe on masked features, without an attention loss (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm)
    parts = [ContrastPart(backbone.channels, config), MaskPart(), *probe_parts(backbone.channels, classes, config)]
    return Model(backbone, parts, AttentionBlock(backbone.channels))


RECIPE = Recipe(build, check=maps_have_places, paper={"resnet50": (49.65, None)})
