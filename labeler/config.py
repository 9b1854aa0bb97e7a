"""Every setting of a labelling job: what decides the bytes of the shards, and how the work is done."""

from pydantic import BaseModel, Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import UserError
from common.manifest import LabelConfig
from common.settings import Settings
from labeler.teacher import DEFAULT_TEACHER, TEACHERS

DEMO_OUTPUTS = {"demo:photos": "runs/demo/photos", "demo:scenes": "runs/demo/scenes"}


class WorkSettings(BaseModel):
    """How the work is done, and when its result is good enough: none of it changes the bytes of a shard."""

    workers: int | None = Field(
        None, ge=1, description="labelling processes; by default as many as fit, on CPUs one a core"
    )
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="GPUs of each worker, a fraction to share one; by default 0.25 where there are GPUs",
    )
    threads_per_worker: int | None = Field(
        None,
        ge=1,
        description="threads that fetch, decode and encode; by default 2, of a worker with a GPU 4 to 16, as there are "
        "cores, of one with a part of a GPU that part of them",
    )
    wait_for_machines: float = Field(
        30, ge=0, allow_inf_nan=False, description="seconds to wait for a cluster that is still starting machines"
    )
    max_bad_fraction: float = Field(
        0.1, ge=0, le=1, description="share of images that may fail before publishing is refused"
    )
    price_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="what a machine costs an hour: the report then projects the cost"
    )


class LabelSettings(LabelConfig, WorkSettings, Settings):
    """Label photographs with where people look: images in, ImageNet-Attn shards out.

    Without arguments a dozen demo photographs are labelled into runs/demo/photos. The same command again goes on where
    a stopped run left off. Every flag can also be set in a YAML file (--config) or as an environment variable
    (LABELER_SAMPLES_PER_SHARD=500).
    """

    model_config = SettingsConfigDict(env_prefix="LABELER_", cli_prog_name="python -m labeler.run")
    longer_prefixes = ("LABELER_RETRY_",)

    input: str = Field(
        "demo:photos",
        min_length=1,
        description="folder of images or of class folders, or a tar file, local or s3://BUCKET/PREFIX; demo:photos or "
        "demo:scenes",
    )
    output: str | None = Field(
        None,
        description="folder of the data set, new or to be resumed, local or s3://BUCKET/PREFIX; by default below "
        "runs/demo for the demo, else needed",
    )
    teacher: str = Field(
        DEFAULT_TEACHER,
        description=TEACHERS,
    )
    append: bool = Field(
        False, description="go on with a data set whose input has grown: label what it lacks, in further shards"
    )
    plan_only: bool = Field(False, description="write the plan, print shards, images and bytes, and stop")

    def label_config(self) -> LabelConfig:
        """The settings that decide the bytes of the shards."""
        return LabelConfig(**{name: getattr(self, name) for name in LabelConfig.model_fields})

    def output_folder(self) -> str:
        """Where the data set goes. Raises UserError where nothing says so."""
        output = self.output or DEMO_OUTPUTS.get(self.input)
        if not output:
            raise UserError(f"--output is needed: the folder for the shards made from {self.input}")
        return output


class RetrySettings(WorkSettings, Settings):
    """Try again what failed: shards that were set aside, and images that were left out.

    The images are labelled into further shards of the same data set, which is then published again.
    """

    model_config = SettingsConfigDict(env_prefix="LABELER_RETRY_", cli_prog_name="python -m labeler.retry")

    dataset: CliPositionalArg[str] = Field(description="folder of the data set, local or s3://BUCKET/PREFIX")
    input: str | None = Field(None, description="where the images are now; by default where they were")
    teacher: str | None = Field(None, description="the same teacher as before, where it was a file")
