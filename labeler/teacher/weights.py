"""Loading teachers by name: bundled weights, published weights, a file of weights, or the user's own network."""

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

import safetensors.torch
import torch
from torch import Tensor, nn

from common.errors import UserError, describe_error
from common.manifest import Teacher
from common.storage.files import cache_folder, write_atomically
from common.text import pluralize
from labeler.teacher import BUNDLED, PUBLISHED
from labeler.teacher.model import INPUT_SIZE, AttentionTeacher, TeacherModel
from labeler.teacher.tflite import is_tflite, read_tflite

BUNDLED_FILE = Path(__file__).with_name("bundled.safetensors")  # bundled.md documents how it was trained
PUBLISHED_URL = "https://raw.githubusercontent.com/google/attention-center/main/model/center.tflite"
PUBLISHED_SHA256 = "8968fe8266a305c356334a1dcd5c58541b58be916decd32c55c6f51fe65273de"


class CustomTeacher(TeacherModel):
    """Adapter from a user's module, which maps images to attention maps, to the interface of a teacher.

    The module takes float [B, 3, H, W] in [0, 1] and returns maps [B, h, w] or [B, 1, h, w]. Raises ValueError if it
    returns another shape, or another number of maps than of images.
    """

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
        if len(maps) != len(images):
            raise ValueError(f"expected one map for each image, found {len(maps)} for {len(images)} images")
        maxima = maps.amax((1, 2))
        divisors = torch.where(maxima > 0, maxima, 1)  # a map without positive values is returned as it is
        return maps / divisors[:, None, None], maxima


@dataclass(frozen=True)
class TeacherSource:
    """Weights or factory of a teacher, from which a worker on another machine can build it.

    Exactly one of `weights` (content of a weights file) and `factory` ("package.module:factory") is set.
    """

    identity: Teacher
    weights: bytes | None
    factory: str | None

    def build(self) -> TeacherModel:
        """Build the teacher in evaluation mode on the CPU. Raises UserError."""
        if self.factory is not None:
            return CustomTeacher(_call_factory(self.factory)).eval()
        assert self.weights is not None
        teacher = AttentionTeacher()
        teacher.load_state_dict(_read_weights(self.weights))
        return teacher.eval().to(memory_format=torch.channels_last)


def load_teacher(name: str) -> TeacherModel:
    """Load a teacher in evaluation mode on the CPU.

    Args:
        name: `bundled`, `attention-center`, the path of a .tflite or .safetensors file, or `package.module:factory`.
            A factory takes no arguments and returns a module from float [B, 3, 480, 640] in [0, 1] to maps [B, h, w]
            or [B, 1, h, w] with larger values where people look.

    Raises UserError if there is no such teacher or it does not work.
    """
    return find_teacher(name).build()


def find_teacher(name: str) -> TeacherSource:
    """Find a teacher by its name (see `load_teacher`) and check that it predicts a map. Raises UserError."""
    if name == BUNDLED:
        source = _source_from_file(BUNDLED_FILE)
    elif name == PUBLISHED:
        source = _source_from_file(_published_file())
    elif Path(name).is_file():
        source = _source_from_file(Path(name))
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
    _predict_gray_images(name, teacher)
    return source


def check_nonnegative_maps(source: TeacherSource) -> None:
    """Check that a teacher's maps can become labels, which are maps divided by their maximum.

    Raises UserError if the map of a gray image is negative everywhere.
    """
    if (maximum := _predict_gray_images(source.identity.name, source.build())) < 0:
        raise UserError(
            f"--teacher {source.identity.name}: expected maps that are not negative, found a map whose maximum is "
            f"{maximum:.3g}; if the network returns logits, apply a sigmoid, if log densities, the exponential"
        )


def _predict_gray_images(name: str, teacher: TeacherModel) -> float:
    """Return the maximum of the teacher's maps of two gray images. Raises UserError if the teacher fails on them."""
    images = torch.full((2, 3, *INPUT_SIZE), 0.5)  # a teacher that ignores the batch size passes a test with one
    try:
        with torch.inference_mode():
            return teacher.predict(images)[1].max().item()
    except Exception as error:
        raise UserError(
            f"--teacher {name}: fails on gray test images: {type(error).__name__}: {describe_error(error)}"
        ) from None


def _source_from_file(path: Path) -> TeacherSource:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"--teacher {path}: cannot be read: {error.strerror}") from None
    checksum = hashlib.sha256(content).hexdigest()
    name = PUBLISHED if checksum == PUBLISHED_SHA256 else path.stem
    return TeacherSource(Teacher(name=name, sha256=checksum), content, None)


def _read_weights(content: bytes) -> dict[str, Tensor]:
    """Read the float32 state dict of an AttentionTeacher from a weights file. Raises UserError if it holds none."""
    if is_tflite(content):
        return read_tflite(content)
    try:
        state = {name: tensor.float() for name, tensor in safetensors.torch.load(content).items()}
    except Exception as error:
        raise UserError(
            f"expected a .tflite or .safetensors file of teacher weights, found neither ({error})"
        ) from None
    expected = {name: tuple(tensor.shape) for name, tensor in AttentionTeacher().state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        first = wrong[0]
        raise UserError(
            f"these are the weights of another network: {pluralize(len(wrong), 'tensor')} with an unexpected name or "
            f"shape, the first is {first} (expected shape {expected.get(first)}, found {found.get(first)})"
        )
    return state


def _call_factory(name: str) -> nn.Module:
    """Import and call `package.module:factory`; the module may be in the working directory. Raises UserError."""
    module_name, _, attribute = name.partition(":")
    try:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        factory = getattr(importlib.import_module(module_name), attribute)
        module = factory()
    except Exception as error:
        raise UserError(f"--teacher {name}: cannot be created: {type(error).__name__}: {error}") from None
    if not isinstance(module, nn.Module):
        raise UserError(
            f"--teacher {name}: expected the factory to return a torch.nn.Module, found {type(module).__name__}"
        )
    return module


def _factory_checksum(name: str, module: nn.Module) -> str:
    """Return the checksum of the factory's source file and of the weights of the module that it returned."""
    digest = hashlib.sha256()
    with contextlib.suppress(OSError):  # no source file, as for a compiled module: the weights alone identify it
        digest.update(inspect.getsource(importlib.import_module(name.partition(":")[0])).encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _published_file() -> Path:
    """Return the path of the published weights in the cache, after downloading them if needed. Raises UserError."""
    target = cache_folder() / "center.tflite"
    if target.is_file() and _file_checksum(target) == PUBLISHED_SHA256:
        return target
    try:
        with urllib.request.urlopen(PUBLISHED_URL, timeout=30) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != PUBLISHED_SHA256:
            raise UserError(
                f"{PUBLISHED_URL} is not the file that this version was made for (its checksum differs); name a "
                "copy of the original file instead: --teacher center.tflite"
            )
        write_atomically(target, content)
    except (OSError, http.client.HTTPException) as error:  # urllib's own errors are subclasses of OSError
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"the published teacher could not be fetched ({reason}). Download {PUBLISHED_URL} on a machine with a "
            f"network connection and save it as {target}, or name the file: --teacher center.tflite"
        ) from None
    return target


def _file_checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
