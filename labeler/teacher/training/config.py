"""Settings of a training run of the teacher."""

from pydantic import BaseModel, Field
from pydantic_settings import SettingsConfigDict

from common.settings import Settings
from labeler.teacher import BUNDLED, PUBLISHED


class TeacherTrainConfig(BaseModel):
    """The settings that determine the trained weights; a resumed run must have the same."""

    data: list[str] = Field(
        min_length=1,
        description="photographs with fixations as FORMAT:FOLDER (salicon:, osie-eye:, osie-mouse: or csv:); may be "
        "repeated; the validation images of the first data set select the best weights",
    )
    init: str = Field("random", description=f"initial weights: random, {PUBLISHED}, {BUNDLED}, or a file of weights")
    distill: list[str] = Field(
        [],
        description="photographs without fixations (folder, tar file or s3://BUCKET/PREFIX) to train on with the maps "
        "of --distill-teacher as targets, together with the training images of --data; may be repeated",
    )
    distill_teacher: str = Field(
        PUBLISHED, description="teacher for --distill: any value that labeler.run --teacher accepts"
    )
    distill_images: int = Field(
        0, ge=0, description="distillation images per epoch; 0: as many as there are training images with fixations"
    )
    validation: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of images held out for validation; unused for data sets with splits",
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="random seed for initialization, image order, augmentation and validation split"
    )
    epochs: int = Field(40, ge=1, description="passes over the images with fixations")
    batch_size: int = Field(8, ge=1, description="images per step, over all workers together")
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False, description="peak learning rate of AdamW")
    warmup: float = Field(
        0.05, ge=0, le=1, description="share of all steps with linear learning-rate warm-up; cosine decay follows"
    )
    weight_decay: float = Field(
        0.01, ge=0, allow_inf_nan=False, description="weight decay of AdamW, applied to convolution weights only"
    )
    ema: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights; the averaged weights are saved",
    )
    nss_weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="weight of NSS in the loss KLD - nss_weight * NSS"
    )
    input_scale: float = Field(
        1, gt=0, le=1, description="scale of the 480 x 640 training input; 0.5 trains about four times as fast"
    )
    zoom: float = Field(
        0.85, gt=0, le=1, description="smallest share of either side of an image that a random crop shows"
    )
    distill_zoom: float = Field(
        0.5, gt=0, le=1, description="smallest share of either side of a distillation image that a random crop shows"
    )
    colour: float = Field(
        0.2, ge=0, lt=1, description="color jitter: brightness, contrast and saturation change by up to this factor"
    )


class TeacherTrainSettings(TeacherTrainConfig, Settings):
    """Train a teacher on photographs with fixations.

    Repeating the command resumes a stopped run. Every setting can also be given in a YAML file (--config) or as an
    environment variable (TEACHER_EPOCHS=20).
    """

    model_config = SettingsConfigDict(env_prefix="TEACHER_", cli_prog_name="python -m labeler.teacher.train")
    help_groups = {
        "input and output": ("data", "validation", "output", "init"),
        "optimization": (
            "epochs",
            "batch_size",
            "learning_rate",
            "warmup",
            "weight_decay",
            "ema",
            "nss_weight",
            "input_scale",
            "seed",
        ),
        "distillation": ("distill", "distill_teacher", "distill_images", "distill_zoom"),
        "augmentation": ("zoom", "colour"),
        "hardware and checkpoints": ("workers", "threads", "checkpoint_every"),
    }

    output: str = Field(description="local folder of a new or resumed run, which all workers must see")
    workers: int = Field(1, ge=1, description="training processes; each uses one GPU if the machines have GPUs")
    threads: int = Field(2, ge=1, description="threads per worker that read and resize images")
    checkpoint_every: int = Field(
        200, ge=1, description="steps between checkpoints; the end of each epoch is another one"
    )
