"""Models to evaluate: checkpoints of trainer.run, or torchvision's ResNets from plain weights files."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, cast

from torch import Tensor, nn

from common.errors import UserError, describe_error
from trainer.checkpoint import parse_checkpoint, read_checkpoint
from trainer.evaluate.images.image_sets import text_checksum
from trainer.model.attention import select_map
from trainer.model.backbone import Backbone, BackboneName, Features, NormName, StemStride
from trainer.model.weights import MAX_REASON_LENGTH, parse_resnet_weights, read_stem_stride
from trainer.objectives import Model

PLAIN_IMAGE_SIZE = 224  # default for plain weights files
PLAIN_ATTENTION_NOTE = (
    "a plain weights file has no attention read-out: as trained, its map is layer4's channel of the highest mean"
)


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate.

    Attributes:
        name: unique name in results and file names.
        location: checkpoint or weights file, as the user named it.
        sha256: checksum of that file.
        image_size: side of the images that it was trained with, in pixels.
        network: the network, in evaluation mode.
        classes: names of the classes of its classifier, by index; None if they are unknown or it has no classifier.
        training: what is known about its training: backbone, recipe, seed, step, and a checksum of the settings.
        notes: remarks on its attention maps.
        data: labeled data set that it was trained on; None if that is unknown.
    """

    name: str
    location: str
    sha256: str
    image_size: int
    network: "Model | PlainResNet"
    classes: list[str] | None
    training: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    data: str | None = None

    @property
    def channels(self) -> int:
        """Number of channels of its features."""
        return self.network.backbone.channels

    def logits_of(self, features: Tensor) -> Tensor | None:
        """Compute class scores [n, classes] from features [n, channels]; None without a classifier."""
        return self.network.logits_of(features)


class PlainResNet(nn.Module):
    """A ResNet with the weights of a plain weights file, in torchvision's layout.

    Args:
        name: architecture, such as "resnet50".
        stem_stride: stride of the layers before the first stage; 4 is torchvision's.
        weights: the state dict. Its classifier is ignored if it is all zeros, as trainer.export writes it for models
            without one.
    """

    def __init__(self, name: str, weights: dict[str, Tensor], stem_stride: StemStride = 4) -> None:
        super().__init__()
        norm: NormName = "batch" if "bn1.running_mean" in weights else "group"  # as in exports of --norm group
        self.backbone = Backbone(cast(BackboneName, name), norm, stem_stride)
        self.backbone.resnet.load_state_dict(
            {key: weight for key, weight in weights.items() if not key.startswith("fc.")}
        )
        self.classifier: nn.Linear | None = None
        if "fc.weight" in weights and weights["fc.weight"].any():
            classes, channels = weights["fc.weight"].shape
            self.classifier = nn.Linear(channels, classes)
            self.classifier.load_state_dict({"weight": weights["fc.weight"], "bias": weights["fc.bias"]})

    def features(self, images: Tensor) -> Tensor:
        """Compute pooled features [B, channels] of images, float [B, 3, H, W] in [0, 1]."""
        return self.encode(images).pooled

    def encode(self, images: Tensor) -> Features:
        """Compute the features of images, float [B, 3, H, W] in [0, 1]."""
        features: Features = self.backbone(images)
        return features

    def logits_of(self, features: Tensor) -> Tensor | None:
        """Compute class scores [n, classes] from features [n, channels]; None without a classifier."""
        return None if self.classifier is None else self.classifier(features)

    def attention(self, images: Tensor) -> Tensor:
        """Return layer4's channel with the highest mean, [B, h, w], for images [B, 3, H, W]."""
        return self.attention_of(self.encode(images), (images.shape[2], images.shape[3]))

    def attention_of(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Return layer4's channel with the highest mean, [B, h, w]; it is not resized to `size`."""
        return select_map(features.stages[-1], "gap_argmax")[:, 0]


def open_models(locations: Sequence[str], backbone: str | None) -> list[EvaluatedModel]:
    """Open checkpoints and plain weights files, local or in S3.

    Models are named by recipe and seed, or by the name of the weights file; see `make_names_unique`. `backbone` is the
    architecture of plain weights files. Raises UserError.
    """
    if repeated := [location for location, times in Counter(locations).items() if times > 1]:
        raise UserError(f"{repeated[0]} is given twice; expected each checkpoint once")
    models = [_open_model(location, backbone) for location in locations]
    _check_backbone(models, backbone)
    names = make_names_unique([model.name for model in models], locations)
    return [replace(model, name=name) for model, name in zip(models, names, strict=True)]


def make_names_unique(names: Sequence[str], locations: Sequence[str]) -> list[str]:
    """Append the run's folder to names that several models share, then a number if they still share one."""
    with_folders = _extend_repeated(names, [_run_folder(location) for location in locations])
    return _extend_repeated(with_folders, [str(number) for number, _ in enumerate(with_folders, start=1)])


def _extend_repeated(names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    times = Counter(names)
    return [f"{name} {suffix}" if times[name] > 1 else name for name, suffix in zip(names, suffixes, strict=True)]


def _run_folder(location: str) -> str:
    """Return the name of the folder of a checkpoint's run."""
    parts = [part for part in PurePosixPath(location).parts[:-1] if part != "checkpoints"]
    return parts[-1] if parts else PurePosixPath(location).name


def to_file_name(name: str) -> str:
    """Replace characters that are unsafe in file names by hyphens."""
    return re.sub(r"[^\w.-]+", "-", name)


def _check_backbone(models: Sequence[EvaluatedModel], backbone: str | None) -> None:
    """Raise UserError if --backbone applies to no plain weights file and contradicts a checkpoint."""
    if backbone is None or any(isinstance(model.network, PlainResNet) for model in models):
        return
    for model in models:
        if model.training["backbone"] != backbone:
            raise UserError(
                f"--backbone {backbone}: {model.location} is a checkpoint of a {model.training['backbone']}; omit the "
                "flag, which only plain weights files need"
            )


def _open_model(location: str, backbone: str | None) -> EvaluatedModel:
    content = read_checkpoint(location)
    weights = parse_resnet_weights(location, content)
    if weights is None:
        return _from_checkpoint(location, content)
    if backbone is None:
        raise UserError(
            f"{location}: a plain weights file; name its architecture with --backbone, such as --backbone resnet50"
        )
    try:
        network = PlainResNet(backbone, weights, read_stem_stride(location, content)).eval()
    except (RuntimeError, KeyError) as error:
        reason = describe_error(error)[:MAX_REASON_LENGTH]
        raise UserError(
            f"{location}: not the weights of torchvision's {backbone}: {reason}; name another --backbone"
        ) from None
    return EvaluatedModel(
        name=PurePosixPath(location).stem,
        location=location,
        sha256=hashlib.sha256(content).hexdigest(),
        image_size=PLAIN_IMAGE_SIZE,
        network=network,
        classes=None,
        training={"backbone": backbone, "recipe": None, "seed": None, "step": None, "settings": None},
        notes=(PLAIN_ATTENTION_NOTE,),
    )


def _from_checkpoint(location: str, content: bytes) -> EvaluatedModel:
    trained = parse_checkpoint(location, content)
    config = trained.config
    settings_except_seed = config.model_dump(mode="json", exclude={"seed"})
    return EvaluatedModel(
        name=f"{config.recipe} seed {config.seed}",
        location=location,
        sha256=trained.sha256,
        image_size=config.image_size,
        network=trained.model,
        classes=trained.classes,
        training={
            "backbone": config.backbone,
            "recipe": config.recipe,
            "seed": config.seed,
            "step": trained.step,
            "settings": text_checksum(json.dumps(settings_except_seed, sort_keys=True)),
        },
        data=config.data,
    )
