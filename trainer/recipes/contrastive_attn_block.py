"""SimCLR on features that an attention block masks before pooling, with a mask that must match the teacher's maps.

The block is not part of torchvision's ResNet, so exported weights do not include it.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.model.block import AttentionBlock, MaskReadout
from trainer.objectives import AttentionObjective, ContrastiveObjective, MaskMonitor, Model, probe_objectives
from trainer.recipe import Recipe, check_map_size


def build(config: ModelConfig, classes: int | None) -> Model:
    """Compose contrast and a probe on masked features; the clean image's mask is the attention map (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    contrast = ContrastiveObjective(backbone.channels, config)
    attention = AttentionObjective(config, MaskReadout())
    objectives = [contrast, attention, MaskMonitor(), *probe_objectives(backbone.channels, classes, config)]
    return Model(backbone, objectives, AttentionBlock(backbone.channels))


RECIPE = Recipe(build, check=check_map_size, paper={"resnet50": (61.15, None)})
