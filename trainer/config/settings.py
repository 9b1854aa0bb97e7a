"""The command line of a training run: what decides the weights, and how and where the run is made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from common.errors import UserError
from common.parallel import default_decoders
from common.settings import Settings
from common.text import parse_bytes
from trainer.config.training import ADDED_SETTINGS, DEMO_DATA, TrainConfig

if TYPE_CHECKING:
    from trainer.data.shard_cache import ShardCache

DISK_CACHE = "disk:"  # prefix of --cache

DEMO_OUTPUT = "runs/demo/training"
DEMO: dict[str, Any] = {
    "backbone": "resnet18",
    "image_size": 64,
    "batch_size": 60,
    "epochs": 12,
    "warmup_epochs": 1.0,
    "temperature": 0.5,  # for small batches
}
DEMO_CONTRASTIVE_RATE = 2.0  # learning rate of the demo's few steps, for which SimCLR's rule is too slow


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
    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
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
            "bn_statistics",
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
            "readout_rate",
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
        from trainer.optim import LARS  # both import torch
        from trainer.recipes import get_recipe

        recipe = get_recipe(self.recipe)
        defaults = {**recipe.defaults, **(DEMO if self.data == DEMO_DATA else {})}
        if self.data == DEMO_DATA and recipe.optimizer.make is LARS:
            defaults["learning_rate"] = DEMO_CONTRASTIVE_RATE
        unset = {name: value for name, value in defaults.items() if name not in self.model_fields_set}
        return TrainConfig(**{name: getattr(self, name) for name in TrainConfig.model_fields} | unset)

    def resume(self, saved: Any) -> Self:
        """Return the settings with which a run continues whose saved settings are `saved`; None for a new run.

        A run of an earlier version lacks some settings; unless the user gave them, they get that version's values.
        """
        if not isinstance(saved, dict):
            return self
        lacking = ADDED_SETTINGS.keys() - saved.keys() - self.model_fields_set
        return self.model_copy(update={name: ADDED_SETTINGS[name] for name in lacking})

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
