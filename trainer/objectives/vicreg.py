"""The objective of VICReg (Bardes et al. 2022)."""

from trainer.config import ModelConfig
from trainer.losses import vicreg_loss
from trainer.model.heads import MLPHead
from trainer.objectives.base import EncodedBatch, LossTerms, ModelInputs, Objective, Outputs

EXPANSION = 4  # width of the expander relative to the features: 8,192 for a ResNet-50, as in the paper


class VICRegObjective(Objective):
    """VICReg's loss between the embeddings of two views.

    The expander has three layers, four times as wide as the features.

    Args:
        channels: number of pooled feature channels.
        config: the norm of the expander.
    """

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        width = EXPANSION * channels
        self.expander = MLPHead((channels, width, width, width), config.norm)

    def forward(self, encoded: EncodedBatch) -> Outputs:
        first, second = self.expander(encoded.views.pooled).chunk(2)
        return {"first": first, "second": second}

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        terms = vicreg_loss(outputs["first"], outputs["second"])
        figures = {"invariance": terms.invariance, "variance": terms.variance, "covariance": terms.covariance}
        return LossTerms(terms.loss, {"vicreg": terms.loss, **figures})
