"""What is measured: a checkpoint of ours, or a file of torchvision's ResNet weights, behind one small interface."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, cast

import safetensors.torch
from torch import Tensor, nn

from common.errors import UserError, describe_error
from common.training import load_torch_file
from trainer.checkpoint import read_checkpoint, trained_from
from trainer.evaluate.images.image_sets import text_checksum
from trainer.model.attention import select_map
from trainer.model.backbone import Backbone, BackboneName, NormName
from trainer.objectives import Model

PLAIN_SIZE = 224
WRAPPERS = ("state_dict", "model")  # keys of training checkpoints that hold the weights next to other things
PARALLEL = "module."  # what DataParallel puts before each name
PLAIN_ATTENTION = (
    "a plain weights file has no attention read-out: its map is layer4's channel of the highest mean, without training"
)


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with a name of its own. `classes` are those that its classifier knows, by index; None: unknown."""

    name: str
    location: str
    sha256: str
    image_size: int
    network: "Model | PlainResNet"
    classes: list[str] | None
    about: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Of its features."""
        return self.network.backbone.channels

    def scores(self, features: Tensor) -> Tensor | None:
        """The classifier on features [n, C]: [n, classes]; None where the model has none."""
        if isinstance(self.network, PlainResNet):
            return self.network.scores(features)
        return self.network.logits_of(features)


class PlainResNet(nn.Module):
    """A ResNet of torchvision's with its classifier, if the file has one: zeros, as trainer.export writes, are none."""

    def __init__(self, name: str, weights: dict[str, Tensor]) -> None:
        super().__init__()
        norm: NormName = "batch" if "bn1.running_mean" in weights else "group"  # as trainer.export --norm group writes
        self.backbone = Backbone(cast(BackboneName, name), norm)
        self.backbone.resnet.load_state_dict({key: w for key, w in weights.items() if not key.startswith("fc.")})
        self.classifier: nn.Linear | None = None
        if "fc.weight" in weights and weights["fc.weight"].any():
            classes, channels = weights["fc.weight"].shape
            self.classifier = nn.Linear(channels, classes)
            self.classifier.load_state_dict({"weight": weights["fc.weight"], "bias": weights["fc.bias"]})

    def features(self, images: Tensor) -> Tensor:
        """Float [B, 3, H, W] in [0, 1] -> [B, channels]."""
        pooled: Tensor = self.backbone(images).pooled
        return pooled

    def scores(self, features: Tensor) -> Tensor | None:
        """[n, channels] -> [n, classes]."""
        return None if self.classifier is None else self.classifier(features)

    def attention(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> the map of layer4's strongest channel, [B, h, w]."""
        return select_map(self.backbone(images).stages[-1], "gap_argmax")[:, 0]


def open_models(locations: Sequence[str], backbone: str | None) -> list[EvaluatedModel]:
    """The models, each with a name of its own: recipe and seed, or the weights file's name. Raises UserError."""
    if repeated := [location for location, times in Counter(locations).items() if times > 1]:
        raise UserError(f"{repeated[0]} is given twice; expected each checkpoint once")
    models = [_opened(location, backbone) for location in locations]
    _check_backbone(models, backbone)
    names = unique_names([model.name for model in models], locations)
    return [replace(model, name=name) for model, name in zip(models, names, strict=True)]


def unique_names(names: Sequence[str], locations: Sequence[str]) -> list[str]:
    """The names; those that several share with their run's folder, or with a number where that does not help."""
    folders = _told_apart(names, [run_folder(location) for location in locations])
    return _told_apart(folders, [str(number) for number, _ in enumerate(folders, start=1)])


def _check_backbone(models: Sequence[EvaluatedModel], backbone: str | None) -> None:
    """Raises UserError where --backbone is for none of the models, and contradicts one."""
    if backbone is None or any(isinstance(model.network, PlainResNet) for model in models):
        return
    for model in models:
        if model.about["backbone"] != backbone:
            raise UserError(
                f"--backbone {backbone}: {model.location} is a checkpoint of a {model.about['backbone']}; leave it "
                "out, as only plain weights files need it"
            )


def _told_apart(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    times = Counter(names)
    return [f"{name} {label}" if times[name] > 1 else name for name, label in zip(names, labels, strict=True)]


def run_folder(location: str) -> str:
    """The name of the run that a checkpoint is of."""
    parts = [part for part in PurePosixPath(location).parts[:-1] if part != "checkpoints"]
    return parts[-1] if parts else PurePosixPath(location).name


def file_name(name: str) -> str:
    """A model's name as a part of file names."""
    return re.sub(r"[^\w.-]+", "-", name)


def _opened(location: str, backbone: str | None) -> EvaluatedModel:
    content = read_checkpoint(location)
    weights = plain_weights(location, content)
    if weights is None:
        return _ours(location, content)
    if backbone is None:
        raise UserError(f"{location}: plain weights; say of which network with --backbone, such as --backbone resnet50")
    try:
        network = PlainResNet(backbone, weights).eval()
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"{location}: not the weights of torchvision's {backbone}: {describe_error(error)[:200]}; name another "
            "--backbone"
        ) from None
    about = {"backbone": backbone, "recipe": None, "seed": None, "step": None, "settings": None}
    name = PurePosixPath(location).stem
    return EvaluatedModel(
        name, location, hashlib.sha256(content).hexdigest(), PLAIN_SIZE, network, None, about, (PLAIN_ATTENTION,)
    )


def _ours(location: str, content: bytes) -> EvaluatedModel:
    trained = trained_from(location, content)
    config = trained.config
    about = {
        "backbone": config.backbone,
        "recipe": config.recipe,
        "seed": config.seed,
        "step": trained.step,
        "settings": text_checksum(json.dumps(config.model_dump(mode="json", exclude={"seed"}), sort_keys=True)),
    }
    name = f"{config.recipe} seed {config.seed}"
    return EvaluatedModel(name, location, trained.sha256, config.image_size, trained.model, trained.classes, about)


def plain_weights(location: str, content: bytes) -> dict[str, Tensor] | None:
    """The tensors of a weights file; None where the file is something else, a checkpoint of ours perhaps.

    They may lie under `state_dict` or `model`, with `module.` before their names. Raises UserError.
    """
    if location.endswith(".safetensors"):
        try:
            return _unprefixed(safetensors.torch.load(content))
        except Exception as error:  # it raises many types on damaged files
            raise UserError(f"{location}: cannot be read as weights: {describe_error(error)[:200]}") from None
    state = load_torch_file(location, content)
    return next((found for each in _candidates(state) if (found := _resnet(each)) is not None), None)


def _candidates(state: Any) -> list[Any]:
    """A file's content, and what it wraps."""
    return [state, *(state[name] for name in WRAPPERS if name in state)] if isinstance(state, dict) else []


def _resnet(state: Any) -> dict[str, Tensor] | None:
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        return None
    weights = _unprefixed(state)
    return weights if "conv1.weight" in weights else None


def _unprefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PARALLEL): each for name, each in state.items()}
