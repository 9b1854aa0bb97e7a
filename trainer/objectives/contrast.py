"""SimCLR's contrastive objective."""

from trainer.config import ModelConfig
from trainer.losses import nt_xent
from trainer.model.heads import ProjectionHead
from trainer.objectives.base import EncodedBatch, LossTerms, ModelInputs, Objective, Outputs


class ContrastiveObjective(Objective):
    """NT-Xent loss between the projections of two views (Chen et al. 2020).

    Args:
        channels: number of pooled feature channels.
        config: temperature, reduction, and the layers and norm of the projection head.
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.head = ProjectionHead(channels, config.head_layers, config.norm)
        self._temperature, self._reduction = config.temperature, config.reduction

    def forward(self, encoded: EncodedBatch) -> Outputs:
        first, second = self.head(encoded.views.pooled).chunk(2)
        return {"first": first, "second": second}

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        loss = nt_xent(outputs["first"], outputs["second"], self._temperature, self._reduction)
        return LossTerms(loss, {"contrastive": loss})
