"""The concurrent linear probe: classification accuracy of the features while they are trained."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import ModelConfig
from trainer.model.heads import LinearProbe
from trainer.objectives.base import EncodedBatch, LossTerms, ModelInputs, Objective, Outputs


class ProbeObjective(Objective):
    """Cross-entropy of a linear probe on stop-gradient features (paper 4.3), here those of the augmented views.

    Args:
        channels: number of pooled feature channels.
        classes: number of classes.
        config: the norm, which decides whether the probe standardizes the features.
    """

    def __init__(self, channels: int, classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.probe = LinearProbe(channels, classes, config.norm)

    def forward(self, encoded: EncodedBatch) -> Outputs:
        first, second = self.probe(encoded.views.pooled).chunk(2)
        return {"probe_first": first, "probe_second": second}

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        logits = torch.cat([outputs["probe_first"], outputs["probe_second"]]).float()
        labels = torch.cat([inputs.labels, inputs.labels])
        accuracy = (logits.argmax(1) == labels).float().mean()
        loss = F.cross_entropy(logits, labels)
        return LossTerms(loss, {"probe_loss": loss, "probe_accuracy": accuracy})

    def logits(self, pooled: Tensor) -> Tensor:
        scores: Tensor = self.probe(pooled)
        return scores

    def classifier(self) -> dict[str, Tensor]:
        return self.probe.fold()


def probe_objectives(channels: int, classes: int | None, config: ModelConfig) -> list[Objective]:
    """Return a list with a probe of so many classes, or an empty list if `classes` is None."""
    return [] if classes is None else [ProbeObjective(channels, classes, config)]
