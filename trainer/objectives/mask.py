"""Logging of the attention block's mask; it adds nothing to the loss."""

from torch import Tensor

from trainer.model.backbone import Features
from trainer.model.block import MaskReadout
from trainer.objectives.base import EncodedBatch, LossTerms, ModelInputs, Objective, Outputs


class MaskMonitor(Objective):
    """Log the mean of the block's mask over the views as `mask_mean`, and offer the mask as the attention map."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = MaskReadout()

    def forward(self, encoded: EncodedBatch) -> Outputs:
        assert encoded.views.mask is not None
        return {"mask": encoded.views.mask.detach().mean((1, 2))}

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        mask_mean = outputs["mask"].mean()
        return LossTerms(mask_mean.new_zeros(()), {"mask_mean": mask_mean})

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor:
        predicted: Tensor = self.readout(clean, size)
        return predicted
