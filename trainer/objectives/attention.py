"""The attention objective (paper 3.3): predicted maps must match target maps and gaze points."""

from torch import Tensor, nn

from common.saliency import cc
from trainer.config import ModelConfig
from trainer.losses import attention_loss
from trainer.model.backbone import Features
from trainer.model.contracam import ContraCAM
from trainer.objectives.attention_targets import AttentionTarget, Targets, TeacherTarget
from trainer.objectives.base import EncodedBatch, LossTerms, Model, ModelInputs, Objective, Outputs


class AttentionObjective(Objective):
    """KLD and NSS between a predicted map of each clean image and its target (paper eq. 3).

    Args:
        config: weights of KLD and NSS.
        readout: module that predicts maps, called as `readout(features, (height, width))` -> [B, height, width].
        guides_backbone: whether the loss trains the backbone. The baselines set it to False: their read-out is trained
            on detached features, so that its maps can be compared (paper 4.2, of the contrastive baseline).
        prefix: prefix of the logged names `kld`, `nss` and `attention_cc`, such as `human_`.
        target: module that computes the target, called with the inputs of a batch; by default the maps and gaze points
            in the batch.
    """

    uses_clean = True

    def __init__(
        self,
        config: ModelConfig,
        readout: nn.Module,
        guides_backbone: bool = True,
        prefix: str = "",
        target: AttentionTarget | None = None,
    ) -> None:
        super().__init__()
        self.target = target or TeacherTarget()
        self.guides_backbone = guides_backbone
        self.readout = readout
        self._kld_weight, self._nss_weight, self._prefix = config.kld_weight, config.nss_weight, prefix

    def forward(self, encoded: EncodedBatch) -> Outputs:
        assert encoded.clean is not None
        return {"attention": self.attention(encoded.clean, encoded.size)}

    def attention(self, clean: Features, size: tuple[int, int]) -> Tensor:
        predicted: Tensor = self.readout(clean if self.guides_backbone else clean.detach(), size)
        return predicted

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        target: Targets = self.target(inputs)
        terms = attention_loss(outputs["attention"], target.maps, target.points, self._kld_weight, self._nss_weight)
        correlation = cc(outputs["attention"].detach(), target.maps).mean()
        figures = {"kld": terms.kld, "nss": terms.nss, "attention_cc": correlation}
        return LossTerms(terms.loss, {self._prefix + name: figure for name, figure in figures.items()})


def predicts_single_maps(model: Model) -> bool:
    """Return whether a model's map of an image does not depend on other images, as ContraCAM's does."""
    objective = model.objective(AttentionObjective)
    return objective is None or not isinstance(objective.readout, ContraCAM)
