"""Teachers by name: the bundled one, the published one, a file of weights, or anyone's own network."""

import contextlib
import hashlib
import http.client
import importlib
import inspect
import os
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.manifest import Teacher
from common.storage.files import cache_folder, write_atomically
from labeler.teacher import BUNDLED, PUBLISHED
from labeler.teacher.model import INPUT_SIZE, AttentionTeacher
from labeler.teacher.tflite import read_tflite

BUNDLED_FILE = Path(__file__).with_name("bundled.safetensors")  # its card, bundled.md, tells where it comes from
PUBLISHED_URL = "https://raw.githubusercontent.com/google/attention-center/main/model/center.tflite"
PUBLISHED_SHA256 = "8968fe8266a305c356334a1dcd5c58541b58be916decd32c55c6f51fe65273de"


class Predictor(Protocol):
    """What the labelling job needs of a teacher: an nn.Module with this method."""

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB in [0, 1], float [B, 3, 480, 640] -> maps divided by their maximum [B, h, w], and that maximum [B]."""
        ...


class ForeignTeacher(nn.Module):
    """Anyone's module from images to maps, given the method that the job calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.module(images).float()
        if maps.ndim == 4 and maps.shape[1] == 1:
            maps = maps[:, 0]
        if maps.ndim != 3:
            raise ValueError(
                f"expected maps [B, h, w] or [B, 1, h, w] for images [B, 3, H, W], found {tuple(maps.shape)}"
            )
        maxima = maps.amax((1, 2))
        divisors = torch.where(maxima > 0, maxima, 1)  # a map without a positive value stays one
        return maps / divisors[:, None, None], maxima

    def forward(self, images: Tensor) -> Tensor:
        return self.predict(images)[0]


@dataclass(frozen=True)
class TeacherSource:
    """A teacher that can be sent to another machine: its identity, and its weights' bytes or its factory's name."""

    identity: Teacher
    weights: bytes | None
    factory: str | None

    def build(self) -> nn.Module:
        """The network, in evaluation mode, on the CPU; it satisfies Predictor."""
        if self.factory is not None:
            return ForeignTeacher(_call_factory(self.factory)).eval()
        assert self.weights is not None
        teacher = AttentionTeacher()
        teacher.load_state_dict(_state(self.weights))
        return teacher.eval().to(memory_format=torch.channels_last)


def check_positive(source: TeacherSource) -> None:
    """Maps that become labels are divided by their maximum. Raises UserError where a grey picture's is below 0."""
    if (maximum := _try_out(source.identity.name, source.build()).item()) < 0:
        raise UserError(
            f"--teacher {source.identity.name}: expected maps that are not negative, found one of at most "
            f"{maximum:.3g}; let it return the sigmoid of logits, or the exponential of log densities"
        )


def load_teacher(name: str) -> nn.Module:
    """A teacher in evaluation mode: `bundled`, `attention-center`, a weights file, or `package.module:factory`.

    A factory takes no arguments and returns a module from float [B, 3, 480, 640] in [0, 1] to maps [B, h, w] (or
    [B, 1, h, w]), larger where people look. Raises UserError.
    """
    return find_teacher(name).build()


def find_teacher(name: str) -> TeacherSource:
    """Find a teacher by name and prove that it works. Raises UserError."""
    if name == BUNDLED:
        source = _from_file(BUNDLED_FILE)
    elif name == PUBLISHED:
        source = _from_file(_published_file())
    elif Path(name).is_file():
        source = _from_file(Path(name))
    elif ":" in name and not name.endswith((".tflite", ".safetensors")):
        module = _call_factory(name)
        source = TeacherSource(Teacher(name=name, sha256=_factory_checksum(name, module)), None, name)
    else:
        raise UserError(
            f"--teacher {name}: expected {BUNDLED}, {PUBLISHED}, a .tflite or .safetensors file that exists, or "
            "package.module:factory"
        )
    try:
        teacher = source.build()
    except UserError as error:
        raise UserError(f"--teacher {name}: {error}") from None
    _try_out(name, teacher)
    return source


def _from_file(path: Path) -> TeacherSource:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--teacher {path}: cannot be read: {error.strerror}") from None
    checksum = hashlib.sha256(content).hexdigest()
    name = PUBLISHED if checksum == PUBLISHED_SHA256 else path.stem
    return TeacherSource(Teacher(name=name, sha256=checksum), content, None)


def _state(weights: bytes) -> dict[str, Tensor]:
    """Weights file -> state dict of an AttentionTeacher. Raises UserError where they are not its weights."""
    if weights[4:8] == b"TFL3":
        return read_tflite(weights)
    try:
        state = {name: tensor.float() for name, tensor in safetensors.torch.load(weights).items()}
    except Exception as error:
        raise UserError(
            f"expected a .tflite or .safetensors file of teacher weights, found neither ({error})"
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in AttentionTeacher().state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        first = wrong[0]
        raise UserError(
            f"these are the weights of another network: {len(wrong)} tensors differ, the first is {first} "
            f"(expected shape {expected.get(first)}, found {found.get(first)})"
        )
    return state


def _call_factory(name: str) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    try:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        factory = getattr(importlib.import_module(module_name), attribute)
        module = factory()
    except Exception as error:
        raise UserError(f"--teacher {name}: cannot be made: {type(error).__name__}: {error}") from None
    if not isinstance(module, nn.Module):
        raise UserError(
            f"--teacher {name}: expected the factory to return a torch.nn.Module, found {type(module).__name__}"
        )
    return module


def _factory_checksum(name: str, module: nn.Module) -> str:
    """Over the factory's source file and the weights that it made."""
    digest = hashlib.sha256()
    with contextlib.suppress(OSError):  # a module without its source is known by its weights alone
        digest.update(inspect.getsource(importlib.import_module(name.partition(":")[0])).encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _try_out(name: str, teacher: nn.Module) -> Tensor:
    """One grey picture must give one map; returns its maximum [1]."""
    picture = torch.full((1, 3, *INPUT_SIZE), 0.5)
    try:
        with torch.inference_mode():
            maximum: Tensor = teacher.predict(picture)[1]  # type: ignore[operator]
            return maximum
    except Exception as error:
        raise UserError(f"--teacher {name}: fails on a picture: {type(error).__name__}: {error}") from None


def _published_file() -> Path:
    """The authors' weights, fetched once into the cache."""
    target = cache_folder() / "center.tflite"
    if target.is_file() and _checksum(target) == PUBLISHED_SHA256:
        return target
    try:
        with urllib.request.urlopen(PUBLISHED_URL, timeout=30) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != PUBLISHED_SHA256:
            raise UserError(f"{PUBLISHED_URL} is not the file that this version was made for (its checksum differs)")
        write_atomically(target, content)
    except (OSError, http.client.HTTPException) as error:  # urllib's own errors are OSErrors
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"the published teacher could not be fetched ({reason}). Fetch {PUBLISHED_URL} on a machine with a network "
            f"and put it at {target}, or name the file: --teacher center.tflite"
        ) from None
    return target


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
