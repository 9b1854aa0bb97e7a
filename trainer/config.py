"""All settings of a training run."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, field_validator
from pydantic_settings import SettingsConfigDict

from common.errors import UserError
from common.parallel import default_decoders
from common.settings import Settings
from common.text import parse_bytes
from trainer.recipes import recipe_names

if TYPE_CHECKING:
    from trainer.data.shard_cache import ShardCache

DISK_CACHE = "disk:"  # prefix of --cache

DEMO_DATA, DEMO_OUTPUT = "runs/demo/scenes", "runs/demo/training"
DEMO: dict[str, Any] = {
    "backbone": "resnet18",
    "image_size": 64,
    "batch_size": 60,
    "epochs": 12,
    "warmup_epochs": 1.0,
    "temperature": 0.5,  # for small batches
}
DEMO_CONTRASTIVE_RATE = 2.0  # learning rate of the demo's few steps, for which SimCLR's rule is too slow
# values of settings that runs of earlier versions do not have
ADDED_SETTINGS = {"stem_stride": 4, "min_crop": 0.08, "jitter_strength": 1.0, "blur": True, "init": None}


class ModelConfig(BaseModel):
    """Settings of the model and its losses."""

    backbone: Literal["resnet18", "resnet34", "resnet50"] = Field("resnet50", description="network to train")
    norm: Literal["batch", "group"] = Field(
        "batch",
        description="batch norm, synchronized over GPUs (on CPUs each worker has its own statistics), or group norm, "
        "whose result does not depend on how a batch is split",
    )
    stem_stride: Literal[4, 2, 1] = Field(
        4,
        description="stride of the layers before the first stage. 4: the ResNet's, a 7x7 convolution and max pooling; "
        "for small images 2 or 1: a 3x3 convolution of this stride without pooling",
    )
    head_layers: int = Field(2, ge=2, le=4, description="number of layers of SimCLR's projection head")
    temperature: float = Field(0.1, gt=0, allow_inf_nan=False, description="temperature of the contrastive loss")
    reduction: Literal["sum_of_views", "mean"] = Field(
        "sum_of_views",
        description="reduction of the contrastive loss: the sum of the two views' means, as in the SimCLR reference, "
        "or their mean, which is half of it",
    )
    select: Literal["gap_argmax", "channel_max", "channel_mean"] = Field(
        "gap_argmax",
        description="map of each stage that the attention read-out uses: the channel with the highest mean (paper), or "
        "the maximum or mean over channels",
    )
    kld_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="weight of KLD in the attention loss (lambda in the paper)"
    )
    nss_weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="weight of NSS in the attention loss (beta in the paper)"
    )
    second_order: bool = Field(
        False, description="contrastive-contracam: differentiate through the channel weights of ContraCAM as well"
    )

    @field_validator("stem_stride", mode="before")
    @classmethod
    def _parse_stem_stride(cls, value: Any) -> Any:
        """Convert digits, which flags and environment variables give, to a number."""
        return int(value) if isinstance(value, str) and value.isdecimal() else value


class TrainConfig(ModelConfig):
    """The settings that decide the trained weights. A resumed run must have the same."""

    data: str = Field(DEMO_DATA, description="labeled data set: local folder or s3://BUCKET/PREFIX")
    recipe: str = Field("contrastive-attn-teacher", description=f"row of Table 1: {', '.join(recipe_names())}")
    image_size: int = Field(224, ge=32, description="side of views and clean images in pixels")
    batch_size: int = Field(2048, ge=2, description="images per step, over all workers")
    epochs: int = Field(400, ge=1, description="number of passes over the data")
    learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="peak learning rate; by default 0.075 * sqrt(batch size), for supervised recipes 0.1 * batch size "
        "/ 256",
    )
    warmup_epochs: float = Field(
        10, ge=0, allow_inf_nan=False, description="epochs of linear learning-rate warm-up; a cosine to 0 follows"
    )
    weight_decay: float = Field(
        1e-6, ge=0, allow_inf_nan=False, description="weight decay of convolutions and linear layers"
    )
    probe: bool | None = Field(
        None, description="train a linear probe alongside; by default if the data set has classes"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="arithmetic of the network, weights stay float32; auto: bfloat16 autocast on GPUs, float32 on CPUs",
    )
    min_crop: float = Field(
        0.08, gt=0, le=1, description="smallest area of a random crop, as a fraction of the image's"
    )
    jitter_strength: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="strength of the color jitter of views: 1 as in SimCLR, 0 for none",
    )
    blur: bool = Field(True, description="blur half of the views")
    init: str | None = Field(
        None,
        description="weights with which the backbone starts, local or in S3: a file of torchvision, timm, "
        "trainer.export or trainer.run, MoCo, DINO or SwAV; by default random ones",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="random seed for initialization, sample order and augmentation")
    human_data: list[str] = Field(
        [],
        description="contrastive-attn-cotrain: FORMAT:FOLDER of photographs with fixations (salicon:, osie-eye:, "
        "osie-mouse: or csv:); may be repeated; only the split `train` where a data set has one",
    )
    human_batch_size: int | None = Field(
        None, ge=1, description="photographs of --human-data per step, over all workers; by default --batch-size"
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="maximum images of a worker in one pass of the network (GradCache); the loss still covers the "
        "whole batch; by default all",
    )
    unfinished: bool = Field(False, description="train on the finished shards of a data set that is still being made")
    skip_damaged: bool = Field(
        False, description="replace samples that cannot be read by others, and count them, instead of stopping"
    )

    def probe_classes(self, data_classes: int | None) -> int | None:
        """Return the number of classes that a probe or classifier is trained on; None: there is none.

        `data_classes` is the number of classes of the data set, None without classes.
        """
        return None if self.probe is False else data_classes


class TrainSettings(TrainConfig, Settings):
    """Train a vision model on labeled shards: SimCLR that also predicts where people look.

    Without arguments a small model is trained on runs/demo/scenes, in a few minutes on a CPU. Run the same command
    again to resume a stopped run. Every flag can also be set in a YAML file (--config) or as an environment variable
    (TRAINER_EPOCHS=100).
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_", cli_prog_name="python -m trainer.run")
    longer_prefixes = (
        "TRAINER_TABLE_",
        "TRAINER_SEARCH_",
        "TRAINER_EVALUATE_",
        "TRAINER_CONTROLS_",
        "TRAINER_SUMMARIZE_",
    )
    help_groups = {
        "input and output": ("data", "output", "recipe"),
        "model and losses": (
            "backbone",
            "image_size",
            "kld_weight",
            "nss_weight",
            "temperature",
            "select",
            "reduction",
            "head_layers",
            "norm",
            "init",
            "stem_stride",
            "probe",
            "second_order",
        ),
        "views": ("min_crop", "jitter_strength", "blur"),
        "optimization": (
            "epochs",
            "batch_size",
            "learning_rate",
            "warmup_epochs",
            "weight_decay",
            "seed",
        ),
        "co-training with human attention": ("human_data", "human_batch_size"),
        "hardware": ("workers", "threads", "cache", "cache_size", "precision", "compile", "micro_batch"),
        "monitoring": ("monitor", "monitor_every"),
        "fault handling": ("checkpoint_every", "skip_damaged", "unfinished"),
    }

    output: str | None = Field(
        None,
        description="folder of the run, new or to be resumed, local or s3://BUCKET/PREFIX; required, except for the "
        f"demo ({DEMO_OUTPUT})",
    )
    workers: int = Field(1, ge=1, description="processes that train together, each on its own GPU if there are GPUs")
    threads: int | None = Field(
        None,
        ge=1,
        description="decoder threads (CPU) or processes (GPU) per worker; by default 2 on a CPU, and 4 to 16 on a GPU, "
        "depending on the cores per GPU",
    )
    checkpoint_every: int = Field(
        500, ge=1, description="steps between two checkpoints; each epoch ends with one as well"
    )
    cache: str | None = Field(
        None,
        description="memory: decode all samples once and keep them in the memory of each GPU if they fit, otherwise "
        "once per machine; disk:FOLDER: keep the shards of a data set in S3 on a local disk after they are first read, "
        "for all workers of the machine and later runs; none: read and decode in every epoch; by default memory if a "
        "quarter of what is available is enough, otherwise none",
    )
    cache_size: str | None = Field(
        None,
        description="largest size of the disk cache, such as 200GB; shards that were used longest ago are removed "
        "first; by default half of the disk's free space and of what the cache has already",
    )
    monitor: str | None = Field(
        None,
        description="folder of class folders, local or in S3: measure nearest neighbors on its images while training",
    )
    monitor_every: int = Field(1, ge=1, description="epochs between two measurements of --monitor")
    compile: bool = Field(False, description="compile the network with torch.compile")

    def train_config(self) -> TrainConfig:
        """Return the settings that decide the weights. Raises UserError for an unknown recipe.

        Settings that were not given take the recipe's defaults and, for the demo, those of a small model.
        """
        from trainer.optim import SIMCLR  # both import torch
        from trainer.recipes import get_recipe

        recipe = get_recipe(self.recipe)
        defaults = {**recipe.defaults, **(DEMO if self.data == DEMO_DATA else {})}
        if self.data == DEMO_DATA and recipe.optimizer is SIMCLR:
            defaults["learning_rate"] = DEMO_CONTRASTIVE_RATE
        unset = {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields} | unset)

    @field_validator("cache")
    @classmethod
    def _check_cache(cls, cache: str | None) -> str | None:
        is_disk = cache is not None and cache.startswith(DISK_CACHE) and cache != DISK_CACHE
        if cache not in (None, "none", "memory") and not is_disk:
            raise ValueError("expected none, memory or disk:FOLDER")
        return cache

    @field_validator("cache_size")
    @classmethod
    def _check_cache_size(cls, size: str | None) -> str | None:
        if size is not None:
            parse_bytes(size)
        return size

    def shard_cache(self, data: str) -> "ShardCache | None":
        """Return the disk cache for a data set; None unless `--cache` asks for one, and for one on a local disk."""
        if not (self.cache or "").startswith(DISK_CACHE) or not data.startswith("s3://"):
            return None
        from trainer.data.shard_cache import ShardCache

        folder = Path((self.cache or "").removeprefix(DISK_CACHE))
        return ShardCache(folder, None if self.cache_size is None else parse_bytes(self.cache_size))

    def output_folder(self) -> str:
        """Return the folder of the run. Raises UserError if none was given, except for the demo."""
        if self.output is None and self.data != DEMO_DATA:
            raise UserError(f"--output is needed: the folder of the run that trains on {self.data}")
        return self.output or DEMO_OUTPUT

    def threads_per_worker(self, device: str) -> int:
        """Return the decoders per worker on a type of device ("cpu" or "cuda"), assuming one worker per local GPU."""
        import torch

        return self.threads or default_decoders(torch.cuda.device_count() if device == "cuda" else 0)
