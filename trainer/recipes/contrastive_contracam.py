"""SimCLR whose ContraCAM maps must match the teacher's attention maps."""

from common.errors import UserError
from trainer.config import ModelConfig, TrainConfig
from trainer.model.backbone import Backbone
from trainer.model.contracam import ContraCAM
from trainer.objectives import AttentionObjective, ContrastiveObjective, Model, probe_objectives
from trainer.recipe import Recipe, check_map_size


def build(config: ModelConfig, classes: int | None) -> Model:
    """Compose contrast, a probe, and ContraCAM instead of the attention read-out (paper 4.3)."""
    backbone = Backbone(config.backbone, config.norm, config.stem_stride)
    contrast = ContrastiveObjective(backbone.channels, config)
    attention = AttentionObjective(config, ContraCAM(contrast.head, config.second_order))
    return Model(backbone, [contrast, attention, *probe_objectives(backbone.channels, classes, config)])


def check(config: TrainConfig, classes: int | None, workers: int, compiled: bool) -> None:
    """Raise UserError for settings that ContraCAM does not support."""
    check_map_size(config, classes, workers, compiled)
    if config.micro_batch is not None:
        raise UserError(
            "--micro-batch: ContraCAM compares all images of a batch in the forward pass, so it cannot be split; leave "
            "the flag out, and choose a --batch-size that fits into memory"
        )
    if config.second_order and compiled:
        raise UserError("--second-order: torch.compile cannot differentiate twice; leave out --compile")
    if config.second_order and workers > 1 and config.norm == "batch":
        raise UserError(
            "--second-order: batch norm over several workers cannot be differentiated twice; use --norm group, or one "
            "worker"
        )


RECIPE = Recipe(build, check=check, paper={"resnet50": (67.71, None)})
