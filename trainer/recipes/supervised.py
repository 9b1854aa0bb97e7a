"""A supervised classifier, trained in the usual way: crops and flips, SGD with Nesterov's momentum, 90 epochs.

The attention read-out learns from detached features, as in `contrastive`, so that it can be compared.
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
    """Cross-entropy, and a read-out that tells the backbone nothing unless it is `guided`. It needs classes."""
    assert classes is not None
    backbone = Backbone(config.backbone, config.norm)
    attention = AttentionObjective(config, AttentionReadout(config.select), guides_backbone=guided)
    return Model(backbone, [ClassifierObjective(backbone.channels, classes), attention])


def check(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    """Raises UserError where there are no classes to learn."""
    if classes is None:
        raise UserError(f"--recipe {config.recipe} learns classes; use samples that have them, without --no-probe")


RECIPE = Recipe(
    build,
    views=(draw_flip,),
    optimizer=CLASSIFIER,
    defaults=DEFAULTS,
    check=check,
    paper={"resnet50": (75.91, 0.10), "resnet18": (69.17, 0.07)},
)
