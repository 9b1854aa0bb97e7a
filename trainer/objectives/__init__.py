"""What is minimized: one file per objective, and the model that combines them with a backbone."""

from trainer.objectives.attention import AttentionObjective, predicts_single_maps
from trainer.objectives.attention_targets import CenterTarget, LowLevelTarget, PermutedTarget
from trainer.objectives.base import Model, Objective
from trainer.objectives.byol import BYOLObjective
from trainer.objectives.classifier import ClassifierObjective
from trainer.objectives.compose import compose_model
from trainer.objectives.contrast import ContrastiveObjective
from trainer.objectives.mask import MaskMonitor
from trainer.objectives.probe import ProbeObjective, probe_objectives
from trainer.objectives.vicreg import VICRegObjective

__all__ = [
    "AttentionObjective",
    "BYOLObjective",
    "CenterTarget",
    "ClassifierObjective",
    "ContrastiveObjective",
    "LowLevelTarget",
    "MaskMonitor",
    "Model",
    "Objective",
    "PermutedTarget",
    "ProbeObjective",
    "VICRegObjective",
    "compose_model",
    "predicts_single_maps",
    "probe_objectives",
]
