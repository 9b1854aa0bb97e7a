"""Every setting of an evaluation, and which suites its data allow."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import UserError
from common.settings import Settings

Suite = Literal["linear", "imagenet-c", "retrieval", "alignment"]
ResNet = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
NEEDS: dict[Suite, tuple[str, ...]] = {  # any of these settings is enough
    "linear": ("val",),
    "imagenet-c": ("imagenet_c", "val"),
    "retrieval": ("val", "imagenet_c", "cifar", "cifar_c"),
    "alignment": ("human_data",),
}
IMAGENET_QUERIES, CIFAR_QUERIES = 5000, 1000  # paper 4.5


class EvaluateSettings(Settings):
    """Measure what checkpoints have learned, and compare them: results.json, tables, features and one HTML page.

    A checkpoint is RUN/checkpoints/best of trainer.run, or a file of torchvision's ResNet weights (--backbone). Lists
    are written with commas. Every flag can also be set in a YAML file (--config) or as an environment variable
    (TRAINER_EVALUATE_IMAGE_SIZE=224).
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_EVALUATE_", cli_prog_name="python -m trainer.evaluate")

    checkpoints: CliPositionalArg[list[str]] = Field(description="checkpoints, local or s3://BUCKET/KEY")
    suite: list[Suite] = Field([], description="what to measure; by default all that the data allow, --val uncorrupted")
    train: str | None = Field(None, description="labelled data set or class folders, which an offline probe learns")
    val: str | None = Field(None, description="class folders of clean images, as ImageNet's val")
    imagenet_c: str | None = Field(
        None, description="ImageNet-C as published, CORRUPTION/SEVERITY/CLASS/IMAGE; without it, corrupt --val's images"
    )
    cifar: str | None = Field(None, description="CIFAR-10's test images: class folders, a tar of them, or as published")
    cifar_c: str | None = Field(None, description="CIFAR-10-C as published: CORRUPTION.npy and labels.npy")
    queries: int | None = Field(
        None, ge=1, description=f"images searched for; by default {IMAGENET_QUERIES}, of CIFAR-10 {CIFAR_QUERIES}"
    )
    human_data: list[str] = Field(
        [], description="FORMAT:FOLDER[:SPLIT] of human attention: osie-eye, osie-mouse, salicon, csv"
    )
    compare: list[str] = Field(
        [],
        description="NAME=FILE: a per_image.csv of labeler.teacher.evaluate, a further model of the alignment suite",
    )
    backbone: ResNet | None = Field(None, description="network of checkpoints that are plain weights files")
    image_size: int | None = Field(None, ge=32, description="side of the images; by default that of training")
    corruptions: list[str] = Field([], description="of ImageNet-C and CIFAR-10-C, only these")
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field(
        [1, 2, 3, 4, 5], min_length=1, description="of corruptions, only these"
    )
    images: int | None = Field(None, ge=1, description="of ImageNet-C only so many, drawn by the seed")
    probe_epochs: int = Field(90, ge=1, description="passes of the offline probe over the features of --train")
    seed: int = Field(0, ge=0, lt=2**32, description="of queries, corruptions, offline probe and intervals")
    output: str = Field("runs/evaluation", description="folder of the report")
    features: str | None = Field(
        None,
        description="folder that keeps extracted features for the next time, of images told apart by place, name and "
        "size: another one where files were changed in place; by default OUTPUT/features",
    )
    batch_size: int = Field(64, ge=1, description="images in one pass of a network")
    workers: int = Field(1, ge=1, description="processes that extract features; several run on Ray, on a GPU each")
    readers: int | None = Field(
        None,
        ge=0,
        description="processes of each worker that read, crop and corrupt images; by default one a core, 16 at most",
    )

    def check(self) -> None:
        """Raises UserError where a suite lacks its data, or nothing can be measured."""
        if not self.checkpoints:
            raise UserError("expected checkpoints to measure, such as RUN/checkpoints/best; found none")
        if not self.suites():
            raise UserError(
                "nothing to measure: name data with --val, --cifar, --cifar-c, --imagenet-c or --human-data"
            )
        if self.compare and "alignment" not in self.suites():
            raise UserError("--compare is for the suite alignment, which needs --human-data")
        for suite in self.suites():
            if not any(getattr(self, name) for name in NEEDS[suite]):
                flags = " or ".join(f"--{name.replace('_', '-')}" for name in NEEDS[suite])
                raise UserError(f"--suite {suite} needs {flags}")

    def suites(self) -> list[Suite]:
        """What to measure, in the order of the report; --val's images are corrupted only where that is asked for."""
        allowed = {suite for suite, names in NEEDS.items() if any(getattr(self, name) for name in names)}
        if not self.imagenet_c:
            allowed.discard("imagenet-c")
        return [suite for suite in NEEDS if suite in (self.suite or allowed)]
