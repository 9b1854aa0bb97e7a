"""The objective of BYOL (Grill et al. 2020)."""

from trainer.config import ModelConfig, TrainConfig
from trainer.data.dataset import Dataset
from trainer.losses import negative_cosine_similarity
from trainer.model.backbone import Backbone
from trainer.model.heads import MLPHead
from trainer.model.target_network import TargetNetwork, target_momentum
from trainer.objectives.base import EncodedBatch, LossTerms, Model, ModelInputs, Objective, Outputs

HIDDEN, DIMENSIONS = 4096, 256  # of projector and predictor, as in the paper


class BYOLObjective(Objective):
    """Predict the target network's projection of each view from the other view.

    The loss is the paper's, the sum over both directions of 2 - 2 * cosine similarity.

    Args:
        backbone: the network to be trained, of which the target network starts as a copy.
        config: the norm of projector and predictor.
    """

    def __init__(self, backbone: Backbone, config: ModelConfig) -> None:
        super().__init__()
        self.projector = MLPHead((backbone.channels, HIDDEN, DIMENSIONS), config.norm)
        self.predictor = MLPHead((DIMENSIONS, HIDDEN, DIMENSIONS), config.norm)
        self.target = TargetNetwork(backbone, self.projector)

    def forward(self, encoded: EncodedBatch) -> Outputs:
        first, second = self.predictor(self.projector(encoded.views.pooled)).chunk(2)
        target_first, target_second = self.target(encoded.images).chunk(2)
        return {"first": first, "second": second, "target_first": target_first, "target_second": target_second}

    def loss_terms(self, outputs: Outputs, inputs: ModelInputs) -> LossTerms:
        first = negative_cosine_similarity(outputs["first"], outputs["target_second"])
        second = negative_cosine_similarity(outputs["second"], outputs["target_first"])
        loss = (2 + 2 * first) + (2 + 2 * second)
        return LossTerms(loss, {"byol": loss})

    def after_step(self, backbone: Backbone, progress: float) -> None:
        self.target.follow(backbone, self.projector, target_momentum(progress))


def copy_to_target(model: Model, data: Dataset, config: TrainConfig) -> None:
    """Make the target network a copy of the backbone with which a run starts, which may be that of `--init`."""
    objective = model.objective(BYOLObjective)
    assert objective is not None
    objective.target.follow(model.backbone, objective.projector, momentum=0)
