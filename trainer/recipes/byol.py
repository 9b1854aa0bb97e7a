"""BYOL (Grill et al. 2020), with an attention read-out on detached features that does not affect the backbone.

As in the paper: projector and predictor 4,096-256, a target network with a momentum from 0.996 to 1 by a cosine, LARS
with a learning rate of 0.2 * batch size / 256, weight decay 1.5e-6, 10 epochs of warm-up, 1,000 epochs, batches of
4,096. Different: the views are SimCLR's, which are symmetric, without solarization and with stronger jitter, so that
recipes differ in their objective only. The target network normalizes by the statistics of the batch, as in the authors'
code.
"""

from trainer.config import ModelConfig
from trainer.model.backbone import Backbone
from trainer.objectives import BYOLObjective, Model, compose_model
from trainer.objectives.byol import copy_to_target
from trainer.optim import LINEAR_LARS
from trainer.recipe import Recipe

DEFAULTS = {"epochs": 1000, "batch_size": 4096, "weight_decay": 1.5e-6}


def build(config: ModelConfig, classes: int | None, guided: bool = False) -> Model:
    """Compose BYOL, a probe and the attention read-out, whose loss trains the backbone only if `guided`."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    objective = BYOLObjective(backbone, config)
    return compose_model(backbone, objective, config, classes, guides_backbone=guided)


RECIPE = Recipe(build, optimizer=LINEAR_LARS, defaults=DEFAULTS, prepare=copy_to_target)
