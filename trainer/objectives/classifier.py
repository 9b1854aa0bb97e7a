"""The classification objective of the supervised rows of Table 1."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.objectives.base import EncodedBatch, LossTerms, ModelInputs, Objective, Outputs


class ClassifierObjective(Objective):
    """Cross-entropy of a linear classifier on every view; its gradient trains the backbone.

    Its accuracy is logged as `probe_accuracy`, since Table 1 compares it with the accuracy of linear probes.

    Args:
        channels: number of pooled feature channels.
        classes: number of classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, encoded: EncodedBatch) -> Outputs:
        return {"classifier": self.logits(encoded.views.pooled)}

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        labels = inputs.labels.repeat(len(outputs["classifier"]) // len(inputs.labels))
        loss = F.cross_entropy(outputs["classifier"].float(), labels)
        accuracy = (outputs["classifier"].argmax(1) == labels).float().mean()
        return LossTerms(loss, {"cross_entropy": loss, "probe_accuracy": accuracy})

    def logits(self, pooled: Tensor) -> Tensor:
        scores: Tensor = self.linear(pooled)
        return scores

    def classifier(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self.linear.named_parameters()}
