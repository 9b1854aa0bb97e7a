"""The paper's method: SimCLR whose backbone must also predict the teacher's attention maps."""

from trainer.config import ModelConfig
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone
from trainer.objectives import AttentionObjective, ContrastiveObjective, Model, probe_objectives
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None) -> Model:
    """Compose contrast, a probe, and the attention branch on the clean images (paper 3.3)."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    contrast = ContrastiveObjective(backbone.channels, config)
    attention = AttentionObjective(config, AttentionReadout(config.select))
    return Model(backbone, [contrast, attention, *probe_objectives(backbone.channels, classes, config)])


RECIPE = Recipe(build, paper={"resnet50": (68.23, 0.08)})
