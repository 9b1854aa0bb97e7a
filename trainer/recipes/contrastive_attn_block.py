"""SimCLR on masked features: a block masks the last stage before pooling, and the teacher's maps guide its mask.

The block is no part of torchvision's layout: an exported backbone is without it.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.model.block import AttentionBlock, MaskReadout
from trainer.objectives import AttentionObjective, ContrastiveObjective, MaskMonitor, Model, probe_objectives
from trainer.recipe import Recipe, check_map_size


def build(config: ModelConfig, classes: int | None) -> Model:
    """Contrast and a probe on masked features; the mask of the clean image is the attention branch (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm)
    contrast = ContrastiveObjective(backbone.channels, config)
    attention = AttentionObjective(config, MaskReadout())
    parts = [contrast, attention, MaskMonitor(), *probe_objectives(backbone.channels, classes, config)]
    return Model(backbone, parts, AttentionBlock(backbone.channels))


RECIPE = Recipe(build, check=check_map_size, paper={"resnet50": (61.15, None)})
