"""SimCLR on features that an attention block masks before pooling, with a mask that only the contrastive loss trains.

The block is not part of torchvision's ResNet, so exported weights do not include it.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.model.block import AttentionBlock
from trainer.objectives import ContrastiveObjective, MaskMonitor, Model, probe_objectives
from trainer.recipe import Recipe, check_map_size


def build(config: ModelConfig, classes: int | None) -> Model:
    """Compose contrast and a probe on masked features, without an attention loss (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    objectives = [
        ContrastiveObjective(backbone.channels, config),
        MaskMonitor(),
        *probe_objectives(backbone.channels, classes, config),
    ]
    return Model(backbone, objectives, AttentionBlock(backbone.channels))


RECIPE = Recipe(build, check=check_map_size, paper={"resnet50": (49.65, None)})
