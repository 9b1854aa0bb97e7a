"""The settings that decide the trained weights."""

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

from trainer.recipes import recipe_names

DEMO_DATA = "runs/demo/scenes"
# values of settings that runs of earlier versions do not have
ADDED_SETTINGS: dict[str, Any] = {
    "stem_stride": 4,
    "min_crop": 0.08,
    "jitter_strength": 1.0,
    "blur": True,
    "init": None,
    "bn_statistics": "all",
    "readout_rate": "backbone",
}


class ModelConfig(BaseModel):
    """Settings of the model and its losses."""

    backbone: Literal["resnet18", "resnet34", "resnet50"] = Field("resnet50", description="network to train")
    norm: Literal["batch", "group"] = Field(
        "batch",
        description="batch norm, synchronized over GPUs (on CPUs each worker has its own statistics), or group norm, "
        "whose result does not depend on how a batch is split",
    )
    bn_statistics: Literal["views", "all"] = Field(
        "views",
        description="images that update the running statistics of batch norm, which evaluation uses: only the "
        "augmented views, as in SimCLR, or all, also clean images and photographs of --human-data (runs of earlier "
        "versions); each pass is normalized by its own statistics",
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
    recipe: str = Field("contrastive-attn-teacher", description=f"what to train: {', '.join(recipe_names())}")
    image_size: int = Field(224, ge=32, description="side of views and clean images in pixels")
    batch_size: int = Field(2048, ge=2, description="images per step, over all workers; for byol by default 4096")
    epochs: int = Field(
        400,
        ge=1,
        description="number of passes over the data; by default 90 for supervised recipes, 1000 for vicreg and byol",
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="peak learning rate; by default 0.075 * sqrt(batch size), for supervised recipes 0.1 * batch size "
        "/ 256, for vicreg and byol 0.2 * batch size / 256",
    )
    warmup_epochs: float = Field(
        10,
        ge=0,
        allow_inf_nan=False,
        description="epochs of linear learning-rate warm-up, by default 5 for supervised recipes; then a cosine to 0",
    )
    weight_decay: float = Field(
        1e-6,
        ge=0,
        allow_inf_nan=False,
        description="weight decay of convolutions and linear layers; by default 1e-4 for supervised recipes, 1.5e-6 "
        "for byol",
    )
    readout_rate: Literal["probe", "backbone"] = Field(
        "probe",
        description="learning rate of the attention read-out: that of linear probes, 0.1 * batch size / 256, or that "
        "of the backbone (runs of earlier versions)",
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
