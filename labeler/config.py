"""Settings of the labeling commands: what determines the bytes of the shards, and how the work is done."""

from pydantic import BaseModel, Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import UserError
from common.manifest import LabelConfig
from common.settings import Settings
from labeler.teacher import DEFAULT_TEACHER, TEACHER_HELP

DEMO_OUTPUTS = {"demo:photos": "runs/demo/photos", "demo:scenes": "runs/demo/scenes"}


class WorkSettings(BaseModel):
    """Settings of how the work is done and when its result is accepted. They do not change the bytes of a shard."""

    workers: int | None = Field(
        None, ge=1, description="number of labeling processes; by default as many as fit: one per CPU core or GPU share"
    )
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="GPUs per worker; a fraction lets workers share a GPU, 0 uses the CPU; by default, if the cluster "
        "has GPUs, as many workers share a GPU as have two CPU cores each, up to eight",
    )
    threads_per_worker: int | None = Field(
        None,
        ge=1,
        description="threads per worker that fetch, decode and encode images; by default 2 on a CPU; on a GPU, as many "
        "as the worker has cores if all workers of its machine share them (2 to 16)",
    )
    price_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="price of a machine per hour; adds a projected cost to the report"
    )
    max_bad_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        description="maximum fraction of images that may fail; if more fail in the first labeling of a data set, "
        "nothing is published",
    )
    batch_timeout: float = Field(
        600,
        gt=0,
        allow_inf_nan=False,
        description="seconds that the teacher may take for a batch; a worker whose teacher hangs is then replaced",
    )
    wait_for_machines: float = Field(
        30, ge=0, allow_inf_nan=False, description="seconds to wait for a cluster that is still starting machines"
    )


class LabelSettings(LabelConfig, WorkSettings, Settings):
    """Label images with predicted human attention and write them as ImageNet-Attn shards.

    Without arguments, a dozen demo photographs are labeled into runs/demo/photos. Run the same command again to resume
    a stopped run. Every flag can also be set in a YAML file (--config) or as an environment variable
    (LABELER_SAMPLES_PER_SHARD=500).
    """

    model_config = SettingsConfigDict(env_prefix="LABELER_", cli_prog_name="python -m labeler.run")
    longer_prefixes = ("LABELER_RETRY_",)
    help_groups = {
        "input and output": ("input", "output", "teacher", "limit", "append", "plan_only"),
        "labels": ("map_size", "gaze_threshold", "max_gaze_points", "map_encoder"),
        "shards": ("samples_per_shard", "include_images", "seed"),
        "hardware": ("workers", "gpus_per_worker", "threads_per_worker", "batch_size", "price_per_hour"),
        "fault handling": ("max_bad_fraction", "max_pixels", "min_side", "batch_timeout", "wait_for_machines"),
    }

    input: str = Field(
        "demo:photos",
        min_length=1,
        description="folder of images or of class folders, or a tar file, local or s3://BUCKET/PREFIX; or demo:photos "
        "or demo:scenes",
    )
    output: str | None = Field(
        None,
        description="folder of the data set, new or to be resumed, local or s3://BUCKET/PREFIX; required unless the "
        "input is a demo, whose default is a folder in runs/demo",
    )
    teacher: str = Field(DEFAULT_TEACHER, description=TEACHER_HELP)
    append: bool = Field(
        False, description="extend a data set whose input has grown: label its new images into additional shards"
    )
    plan_only: bool = Field(False, description="write the plan, print the number of shards, images and bytes, and exit")

    def label_config(self) -> LabelConfig:
        """Return the settings that determine the bytes of the shards."""
        return LabelConfig(**{name: getattr(self, name) for name in LabelConfig.model_fields})

    def output_folder(self) -> str:
        """Return the location of the data set. Raises UserError if neither `output` nor a demo input determines it."""
        output = self.output or DEMO_OUTPUTS.get(self.input)
        if not output:
            raise UserError(f"--output is needed: the folder for the shards made from {self.input}")
        return output


class RetrySettings(WorkSettings, Settings):
    """Retry what failed: shards that were set aside, and images that are missing from the data set.

    The images are labeled into additional shards of the same data set, which is then published again.
    """

    model_config = SettingsConfigDict(env_prefix="LABELER_RETRY_", cli_prog_name="python -m labeler.retry")
    help_groups = {
        "input and output": ("dataset", "input", "teacher"),
        "hardware": ("workers", "gpus_per_worker", "threads_per_worker", "price_per_hour"),
        "fault handling": ("max_bad_fraction", "batch_timeout", "wait_for_machines"),
    }

    dataset: CliPositionalArg[str] = Field(description="folder of the data set, local or s3://BUCKET/PREFIX")
    input: str | None = Field(None, description="new location of the images, if they have moved")
    teacher: str | None = Field(
        None, description="path of the data set's teacher, if it is a file; by default found by its name"
    )
