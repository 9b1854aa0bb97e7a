"""Every setting of a training run of the teacher."""

from pydantic import BaseModel, Field
from pydantic_settings import SettingsConfigDict

from common.settings import Settings
from labeler.teacher import BUNDLED, PUBLISHED


class TeacherTrainConfig(BaseModel):
    """What decides the weights that come out."""

    data: list[str] = Field(
        min_length=1,
        description="FORMAT:FOLDER of photographs with fixations: salicon:, osie-eye:, osie-mouse: or csv:; may be "
        "repeated; validation images of the first choose the best weights",
    )
    init: str = Field("random", description=f"random weights, or those to go on from: {PUBLISHED}, {BUNDLED} or a file")
    distill: list[str] = Field(
        [],
        description="folder of photographs without fixations (or a tar file, or s3://BUCKET/PREFIX), whose maps "
        "--distill-teacher gives; the training images of --data are learnt from in this way too; may be repeated",
    )
    distill_teacher: str = Field(PUBLISHED, description="the stronger teacher, named as for labeler.run --teacher")
    distill_images: int = Field(
        0, ge=0, description="photographs of --distill in an epoch; 0: as many as have fixations"
    )
    validation: float = Field(
        0.2, gt=0, lt=1, description="part of each data set's images kept for validation, where it has no such split"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of weights, order, views, and the choice of validation images")
    epochs: int = Field(40, ge=1, description="passes over the images with fixations")
    batch_size: int = Field(8, ge=1, description="images in a step, over all workers")
    learning_rate: float = Field(2e-3, gt=0, allow_inf_nan=False, description="of AdamW, at its peak")
    warmup: float = Field(0.05, ge=0, le=1, description="part of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False, description="of AdamW, on convolutions' weights")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the average of the weights, which is what is kept")
    nss_weight: float = Field(0.1, ge=0, allow_inf_nan=False, description="of NSS in the loss, KLD - weight * NSS")
    input_scale: float = Field(
        1, gt=0, le=1, description="part of 480 x 640 at which to train: 0.5 is four times as fast, to begin with"
    )
    zoom: float = Field(0.85, gt=0, le=1, description="a view shows at least this part of either side of an image")
    distill_zoom: float = Field(0.5, gt=0, le=1, description="the same where the stronger teacher gives the map")
    colour: float = Field(0.2, ge=0, lt=1, description="brightness, contrast, saturation change by up to this part")


class TeacherTrainSettings(TeacherTrainConfig, Settings):
    """Train the teacher: photographs with fixations in, weights out.

    The same command again goes on where a stopped run left off. Every flag can also be set in a YAML file (--config) or
    as an environment variable (TEACHER_EPOCHS=20).
    """

    model_config = SettingsConfigDict(env_prefix="TEACHER_", cli_prog_name="python -m labeler.teacher.train")

    output: str = Field(description="local folder of the run, new or to go on with; all workers must see it")
    workers: int = Field(1, ge=1, description="processes that train together, each on a GPU of its own if there are")
    threads: int = Field(2, ge=1, description="threads of each worker that read and resize photographs")
    checkpoint_every: int = Field(200, ge=1, description="steps between two checkpoints; an epoch's end makes one too")
