"""SimCLR whose backbone must also predict human attention maps of other photographs, without a teacher.

Example::

    python -m trainer.run --recipe contrastive-attn-cotrain --human-data salicon:FOLDER --human-batch-size 2048 ...
"""

from trainer.config import ModelConfig
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone
from trainer.objectives import AttentionObjective, ContrastiveObjective, Model, probe_objectives
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None) -> Model:
    """Compose contrast, a probe, and the attention branch on photographs with human fixations (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    contrast = ContrastiveObjective(backbone.channels, config)
    attention = AttentionObjective(config, AttentionReadout(config.select), prefix="human_")
    return Model(backbone, [contrast, attention, *probe_objectives(backbone.channels, classes, config)])


RECIPE = Recipe(build, human_data=True, paper={"resnet50": (66.35, 0.12)})
