"""VICReg (Bardes et al. 2022), with an attention read-out on detached features that does not affect the backbone.

As in the paper: weights of the loss, an expander of three layers of 8,192 for a ResNet-50 (four times the features'
channels for others), LARS with a learning rate of 0.2 * batch size / 256, weight decay 1e-6, 10 epochs of warm-up,
1,000 epochs, batches of 2,048. Different: LARS in SimCLR's form; the cosine ends at 0, not at 0.002; the views are
SimCLR's, without solarization and with stronger jitter, so that recipes differ in their objective only.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.objectives import Model, VICRegObjective, compose_model
from trainer.optim import LINEAR_LARS
from trainer.recipe import Recipe


def build(config: ModelConfig, classes: int | None, guided: bool = False) -> Model:
    """Compose VICReg, a probe and the attention read-out, whose loss trains the backbone only if `guided`."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    objective = VICRegObjective(backbone.channels, config)
    return compose_model(backbone, objective, config, classes, guides_backbone=guided)


RECIPE = Recipe(build, optimizer=LINEAR_LARS, defaults={"epochs": 1000})
