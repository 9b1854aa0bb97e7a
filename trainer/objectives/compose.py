"""The composition that most recipes share: an objective of the views, the attention branch, and a linear probe."""

from trainer.config import ModelConfig
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone
from trainer.objectives.attention import AttentionObjective
from trainer.objectives.attention_targets import AttentionTarget
from trainer.objectives.base import Model, Objective
from trainer.objectives.probe import probe_objectives


def compose_model(
    backbone: Backbone,
    objective: Objective,
    config: ModelConfig,
    classes: int | None,
    guides_backbone: bool = True,
    target: AttentionTarget | None = None,
) -> Model:
    """Compose a backbone, an objective of its views, the attention branch (paper 3.3) and, with classes, a probe.

    `guides_backbone` and `target` are those of `AttentionObjective`: without guidance, the read-out is trained on
    detached features (paper 4.2), and without a target, on the maps and gaze points of the data set.
    """
    readout = AttentionReadout(config.select)
    attention = AttentionObjective(config, readout, guides_backbone=guides_backbone, target=target)
    return Model(backbone, [objective, attention, *probe_objectives(backbone.channels, classes, config)])
