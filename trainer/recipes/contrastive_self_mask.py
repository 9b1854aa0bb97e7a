"""SimCLR on masked features: the contrastive loss alone says what the block masks.

The block is no part of torchvision's layout: an exported backbone is without it.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.model.block import AttentionBlock
from trainer.objectives import ContrastiveObjective, MaskMonitor, Model, probe_objectives
from trainer.recipe import Recipe, check_map_size


def build(config: ModelConfig, classes: int | None) -> Model:
    """Contrast and a probe on masked features, without an attention loss (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm)
    parts = [
        ContrastiveObjective(backbone.channels, config),
        MaskMonitor(),
        *probe_objectives(backbone.channels, classes, config),
    ]
    return Model(backbone, parts, AttentionBlock(backbone.channels))


RECIPE = Recipe(build, check=check_map_size, paper={"resnet50": (49.65, None)})
