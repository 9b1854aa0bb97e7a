"""A classifier that the backbone learns from: the supervised rows of Table 1."""

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.objectives.base import EncodedBatch, LossTerms, ModelInputs, Objective, Outputs


class ClassifierObjective(Objective):
    """Cross-entropy on every view. Its accuracy is logged as a probe's is: they are compared in Table 1."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, seen: EncodedBatch) -> Outputs:
        return {"classifier": self.logits(seen.views.pooled)}

    def terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        labels = inputs.labels.repeat(len(outputs["classifier"]) // len(inputs.labels))
        loss = F.cross_entropy(outputs["classifier"].float(), labels)
        accuracy = (outputs["classifier"].argmax(1) == labels).float().mean()
        return LossTerms(loss, {"cross_entropy": loss, "probe_accuracy": accuracy})

    def logits(self, pooled: Tensor) -> Tensor:
        scores: Tensor = self.linear(pooled)
        return scores

    def classifier(self) -> dict[str, Tensor]:
        return {name: one.detach() for name, one in self.linear.named_parameters()}
