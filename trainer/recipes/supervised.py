"""A supervised classifier, trained as usual: random crops and flips, SGD with Nesterov momentum, 90 epochs.

Its attention read-out is trained on detached features, as in `contrastive`, so that its maps can be compared.
"""

from common.errors import UserError
from trainer.config import ModelConfig, TrainConfig
from trainer.data.augment import draw_flip
from trainer.model.attention import AttentionReadout
from trainer.model.backbone import Backbone
from trainer.objectives import AttentionObjective, ClassifierObjective, Model
from trainer.optim import CLASSIFIER
from trainer.recipe import Recipe

DEFAULTS = {"epochs": 90, "warmup_epochs": 5, "weight_decay": 1e-4}


def build(config: ModelConfig, classes: int | None, guided: bool = False) -> Model:
    """Compose cross-entropy and the attention read-out, whose loss trains the backbone only if `guided`."""
    assert classes is not None
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    attention = AttentionObjective(config, AttentionReadout(config.select), guides_backbone=guided)
    return Model(backbone, [ClassifierObjective(backbone.channels, classes), attention])


def check(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    """Raise UserError if there are no classes."""
    if classes is None:
        raise UserError(
            f"--recipe {config.recipe} trains a classifier; use a data set with classes, and leave out --no-probe"
        )


RECIPE = Recipe(
    build,
    views=(draw_flip,),
    optimizer=CLASSIFIER,
    defaults=DEFAULTS,
    check=check,
    paper={"resnet50": (75.91, 0.10), "resnet18": (69.17, 0.07)},
)
