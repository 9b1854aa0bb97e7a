"""What is minimized: one file per objective, and the model that combines them with a backbone."""

from trainer.objectives.attention import AttentionObjective, predicts_single_maps
from trainer.objectives.base import Model, Objective
from trainer.objectives.classifier import ClassifierObjective
from trainer.objectives.contrast import ContrastiveObjective
from trainer.objectives.mask import MaskMonitor
from trainer.objectives.probe import ProbeObjective, probe_objectives

__all__ = [
    "AttentionObjective",
    "ClassifierObjective",
    "ContrastiveObjective",
    "MaskMonitor",
    "Model",
    "Objective",
    "ProbeObjective",
    "predicts_single_maps",
    "probe_objectives",
]
