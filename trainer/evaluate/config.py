"""All settings of an evaluation."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from common.errors import UserError
from common.settings import Settings
from trainer.evaluate.suites import load_suites, suite_names

if TYPE_CHECKING:  # suites import torch
    from trainer.evaluate.suite import Suite

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
ProbeKind = Literal["concurrent", "offline", "both"]
CONCURRENT: ProbeKind = "concurrent"
OFFLINE: ProbeKind = "offline"
BOTH: ProbeKind = "both"
IMAGENET_QUERIES, CIFAR_QUERIES = 5000, 1000  # paper 4.5


class EvaluateSettings(Settings):
    """Evaluate checkpoints and compare them: results.json, tables, features and one HTML report.

    A checkpoint is RUN/checkpoints/best of trainer.run, or a file of torchvision's ResNet weights (--backbone).
    Separate the items of lists by commas. Every flag can also be set in a YAML file (--config) or as an environment
    variable (TRAINER_EVALUATE_IMAGE_SIZE=224).
    """

    model_config = SettingsConfigDict(env_prefix="TRAINER_EVALUATE_", cli_prog_name="python -m trainer.evaluate")
    help_groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "input and output": ("checkpoints", "suite", "output", "features"),
        "data": ("train", "val", "imagenet_c", "cifar", "cifar_c", "human_data", "compare"),
        "measurement": (
            "readout",
            "backbone",
            "image_size",
            "corruptions",
            "severities",
            "images",
            "queries",
            "probe_kind",
            "probe_epochs",
            "seed",
        ),
        "hardware": ("batch_size", "workers", "readers"),
    }

    checkpoints: CliPositionalArg[list[str]] = Field(description="checkpoints, local or s3://BUCKET/KEY")
    suite: list[str] = Field(
        [],
        description=f"suites to run: {', '.join(suite_names())}; by default all whose data are given (imagenet-c on "
        "images of --val only if it is requested)",
    )
    train: str | None = Field(
        None,
        description="labeled data set or class folders to train offline probes on, and to search for neighbors; "
        "read-outs are refit on the former",
    )
    val: str | None = Field(None, description="class folders of clean images, such as ImageNet's val")
    imagenet_c: str | None = Field(
        None,
        description="ImageNet-C as published, CORRUPTION/SEVERITY/CLASS/IMAGE; without it the images of --val are "
        "corrupted",
    )
    cifar: str | None = Field(None, description="CIFAR-10's test images: class folders, a tar of them, or as published")
    cifar_c: str | None = Field(None, description="CIFAR-10-C as published: CORRUPTION.npy and labels.npy")
    queries: int | None = Field(
        None,
        ge=1,
        description=f"number of retrieval queries; by default {IMAGENET_QUERIES:,}, and {CIFAR_QUERIES:,} for CIFAR-10",
    )
    human_data: list[str] = Field(
        [], description="FORMAT:FOLDER[:SPLIT] of human attention: osie-eye, osie-mouse, salicon, csv"
    )
    compare: list[str] = Field(
        [],
        description="NAME=FILE: per_image.csv of labeler.teacher.evaluate, compared as another model in the suite "
        "alignment",
    )
    readout: Literal["refit", "as-trained"] = Field(
        "refit",
        description="read-out of attention maps in the tables of the suite alignment: refit on frozen features, the "
        "same way for every model, with the teacher's maps of 2,000 images of --train or of the data set that a "
        "checkpoint names; or as trained. results.json has both",
    )
    backbone: ResNet | None = Field(None, description="architecture of checkpoints that are plain weights files")
    image_size: int | None = Field(
        None, ge=32, description="side of the images that models see, in pixels; by default as in their training"
    )
    corruptions: list[str] = Field(
        [],
        description="corruptions of ImageNet-C and CIFAR-10-C; by default the 15 of mCE and the extra ones that exist",
    )
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field(
        [1, 2, 3, 4, 5], min_length=1, description="severities of the corruptions"
    )
    images: int | None = Field(
        None, ge=1, description="number of images of ImageNet-C, drawn with the seed; by default all"
    )
    probe_kind: ProbeKind = Field(
        "both",
        description="linear probes that linear and imagenet-c measure: concurrent (trained with the network), offline "
        "(trained on --train), or both, as far as a model has them",
    )
    probe_epochs: int = Field(90, ge=1, description="epochs of offline probes over the features of --train")
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="random seed for queries, corruptions, offline probes, refit read-outs, permuted targets and "
        "confidence intervals",
    )
    output: str = Field("runs/evaluation", description="folder of the report, local or s3://BUCKET/PREFIX")
    features: str | None = Field(
        None,
        description="folder of extracted features, which later evaluations reuse; by default OUTPUT/features. Images "
        "are identified by location, name and size: choose another folder after files were changed in place",
    )
    batch_size: int = Field(64, ge=1, description="images per pass of a network")
    workers: int = Field(
        1, ge=1, description="processes that extract features; several run on Ray, each with its own GPU if it has any"
    )
    readers: int | None = Field(
        None,
        ge=0,
        description="processes per worker that read, crop and corrupt images; by default one per core, at most 16, "
        "which the workers of a machine share",
    )

    @field_validator("suite")
    @classmethod
    def _check_suite_names(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in suite_names():
                raise ValueError(f"expected some of {', '.join(suite_names())}")
        return names

    def check(self) -> None:
        """Raise UserError if a suite lacks its data, or nothing can be measured."""
        if not self.checkpoints:
            raise UserError("expected checkpoints to evaluate, such as RUN/checkpoints/best; found none")
        selected = self.suites()
        if not selected:
            raise UserError(
                "nothing to measure: name data with --val, --cifar, --cifar-c, --imagenet-c or --human-data"
            )
        if self.probe_kind == OFFLINE and not self.train:
            raise UserError("--probe-kind offline needs --train: name images to train offline probes on")
        for name, suite in load_suites().items():
            needed = _flags(suite.inputs, " or ")
            if name not in selected and self._given(suite.options):
                raise UserError(f"{_flags(suite.options, ', ')} applies to the suite {name} only, which needs {needed}")
            if name in selected and not self._given(suite.inputs):
                raise UserError(f"--suite {name} needs {needed}")

    def suites(self) -> dict[str, "Suite"]:
        """Return the suites to run, by name, in the order of the report."""
        return {
            name: suite
            for name, suite in load_suites().items()
            if (name in self.suite if self.suite else self._given(suite.default_inputs or suite.inputs))
        }

    def _given(self, names: tuple[str, ...]) -> bool:
        """Whether at least one of these settings has a value."""
        return any(getattr(self, name) for name in names)


def _flags(names: tuple[str, ...], separator: str) -> str:
    return separator.join(f"--{name.replace('_', '-')}" for name in names)
