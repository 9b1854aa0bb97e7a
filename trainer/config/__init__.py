"""All settings of a training run."""

from trainer.config.settings import DEMO, DEMO_CONTRASTIVE_RATE, TrainSettings
from trainer.config.training import ADDED_SETTINGS, DEMO_DATA, ModelConfig, TrainConfig

__all__ = [
    "ADDED_SETTINGS",
    "DEMO",
    "DEMO_CONTRASTIVE_RATE",
    "DEMO_DATA",
    "ModelConfig",
    "TrainConfig",
    "TrainSettings",
]
