"""Every setting of a training run."""

from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic_settings import SettingsConfigDict

from common.errors import UserError
from common.parallel import default_decoders
from common.settings import Settings
from trainer.recipes import recipe_names

DEMO_DATA, DEMO_OUTPUT = "runs/demo/scenes", "runs/demo/training"
DEMO: dict[str, Any] = {
    "backbone": "resnet18",
    "image_size": 64,
    "batch_size": 60,
    "epochs": 12,
    "warmup_epochs": 1.0,
    "temperature": 0.5,  # for small batches
}
DEMO_CONTRASTIVE_RATE = 2.0  # of so few steps: SimCLR's rule for long runs is slower


class ModelConfig(BaseModel):
    """What is trained, and towards what."""

    backbone: Literal["resnet18", "resnet34", "resnet50"] = Field("resnet50", description="network that learns")
    norm: Literal["batch", "group"] = Field(
        "batch",
        description="batch norm (over all GPUs; on CPUs over each worker's images), or group norm, with which batches "
        "may be cut anywhere",
    )
    head_layers: int = Field(2, ge=2, le=4, description="layers of SimCLR's projection head")
    temperature: float = Field(0.1, gt=0, allow_inf_nan=False, description="of the contrastive loss")
    reduction: Literal["sum_of_views", "mean"] = Field(
        "sum_of_views", description="of the contrastive loss: the reference's sum, or half of it"
    )
    select: Literal["gap_argmax", "channel_max", "channel_mean"] = Field(
        "gap_argmax", description="which map of a stage the attention read-out takes"
    )
    kld_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="lambda, of KLD in the attention loss")
    nss_weight: float = Field(0.1, ge=0, allow_inf_nan=False, description="beta, of NSS in the attention loss")
    second_order: bool = Field(
        False, description="of ContraCAM: let the attention loss change how channels are weighted, too"
    )


class TrainConfig(ModelConfig):
    """What decides the weights that come out."""

    data: str = Field(DEMO_DATA, description="folder of a labelled data set, local or s3://BUCKET/PREFIX")
    recipe: str = Field("contrastive-attn-teacher", description=f"row of Table 1: {', '.join(recipe_names())}")
    image_size: int = Field(224, ge=32, description="side of views and clean images, in pixels")
    batch_size: int = Field(2048, ge=2, description="images in a step, over all workers")
    epochs: int = Field(400, ge=1, description="passes over the data")
    learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="at its peak; by default 0.075 * sqrt(batch size), of supervised recipes 0.1 * batch size / 256",
    )
    warmup_epochs: float = Field(10, ge=0, allow_inf_nan=False, description="epochs in which the learning rate rises")
    weight_decay: float = Field(1e-6, ge=0, allow_inf_nan=False, description="of convolutions' and linear weights")
    probe: bool | None = Field(None, description="train a linear probe too; by default where the data have classes")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the network's passes, weights stay float32; auto: bfloat16 on GPUs, float32 on CPUs"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, order and views")
    human_data: list[str] = Field(
        [],
        description="FORMAT:FOLDER of photographs with fixations (salicon:, osie-eye:, osie-mouse: or csv:) for "
        "contrastive-attn-cotrain; may be repeated; of a data set with a split train only that",
    )
    human_batch_size: int | None = Field(
        None, ge=1, description="of these photographs in a step, over all workers; by default as many as --batch-size"
    )
    micro_batch: int | None = Field(
        None, ge=1, description="images of a worker that pass the network at once (GradCache); by default all of them"
    )
    unfinished: bool = Field(False, description="train on the shards of a data set that is not finished yet")
    skip_damaged: bool = Field(False, description="put another sample in place of one that cannot be read, and count")


class TrainSettings(TrainConfig, Settings):
    """Train a vision model on labelled shards: SimCLR that also learns where people look.

    Without arguments a small model learns from runs/demo/scenes in a few minutes on a CPU. The same command again goes
    on where a stopped run left off. Every flag can also be set in a YAML file (--config) or as an environment variable
    (TRAINER_EPOCHS=100).
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_", cli_prog_name="python -m trainer.run")
    longer_prefixes = ("TRAINER_TABLE_", "TRAINER_SEARCH_", "TRAINER_EVALUATE_")

    output: str | None = Field(
        None,
        description="folder of the run, new or to go on with, local or s3://BUCKET/PREFIX; by default "
        f"{DEMO_OUTPUT} for the demo, else needed",
    )
    workers: int = Field(1, ge=1, description="processes that train together, each on a GPU of its own if there are")
    threads: int | None = Field(
        None,
        ge=1,
        description="threads of each worker that decode and crop, beside a GPU processes; by default 2, beside a GPU 4 "
        "to 16, as there are cores for each GPU",
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints; one is made after each epoch")
    compile: bool = Field(False, description="compile the network with torch.compile")

    def train_config(self) -> TrainConfig:
        """The part of the settings that decides the weights. Raises UserError.

        What was not given is as the recipe has it; for the demo it makes a small model.
        """
        from trainer.optim import SIMCLR  # both import torch
        from trainer.recipes import get_recipe

        chosen = get_recipe(self.recipe)
        usual = {**chosen.defaults, **(DEMO if self.data == DEMO_DATA else {})}
        if self.data == DEMO_DATA and chosen.optimisation is SIMCLR:
            usual["learning_rate"] = DEMO_CONTRASTIVE_RATE
        unset = {name: value for name, value in usual.items() if name not in self.model_fields_set}
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields} | unset)

    def output_folder(self) -> str:
        """Where the run goes. Raises UserError where nothing says so."""
        if self.output is None and self.data != DEMO_DATA:
            raise UserError(f"--output is needed: the folder for what is learnt from {self.data}")
        return self.output or DEMO_OUTPUT

    def threads_per_worker(self, device: str) -> int:
        """That decode, on a device of this type, of which every other one here may have a worker too."""
        import torch

        return self.threads or default_decoders(torch.cuda.device_count() if device == "cuda" else 0)
