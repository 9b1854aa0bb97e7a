"""ResNet weights from files of this project and of others: torchvision, timm, MoCo, DINO, SwAV."""

import json
from collections.abc import Iterator
from typing import Any

import safetensors.torch
from torch import Tensor

from common.errors import UserError, describe_error
from common.storage.torch_files import load_torch_file
from common.text import pluralize
from trainer.model.backbone import Backbone, StemStride

# under these keys, checkpoints of other training programs hold the weights; of DINO's two networks, the teacher is used
WRAPPER_KEYS = ("state_dict", "model", "teacher")
PREFIXES = (  # before the name of each weight of the ResNet
    "",
    "module.",  # DataParallel, SwAV
    "module.encoder_q.",  # MoCo v1 and v2
    "module.base_encoder.",  # MoCo v3
    "backbone.",  # DINO
    "module.backbone.",  # DINO
    "encoder.",
)
OWN_PREFIX = "backbone.resnet."  # of this project's checkpoints
RESNET_PARTS = {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}  # a file's classifier and heads are not used
STEM = "conv1.weight"
MAX_REASON_LENGTH = 200  # characters of another library's message that an error repeats
MAX_NAMES = 3  # of tensors that an error lists


def parse_resnet_weights(
    location: str, content: bytes, prefixes: tuple[str, ...] = PREFIXES
) -> dict[str, Tensor] | None:
    """Return the tensors of a weights file by torchvision's names.

    Returns None for a file of PyTorch that holds no ResNet by itself, such as a checkpoint of trainer.run. `location`
    names the file in errors. Raises UserError if the file cannot be read, or is a safetensors file without a ResNet.
    """
    if location.endswith(".safetensors"):
        try:
            state: Any = safetensors.torch.load(content)
        except Exception as error:  # safetensors raises many types on damaged files
            reason = describe_error(error)[:MAX_REASON_LENGTH]
            raise UserError(f"{location}: cannot be read as weights: {reason}") from None
    else:
        state = load_torch_file(location, content)
    for candidate in _with_wrapped(state):
        for prefix in prefixes:
            if prefix + STEM in candidate:
                return {
                    name.removeprefix(prefix): weight for name, weight in candidate.items() if name.startswith(prefix)
                }
    if location.endswith(".safetensors"):
        raise _no_resnet(location)
    return None


def read_stem_stride(location: str, content: bytes) -> StemStride:
    """Return the stem stride that trainer.export noted in a weights file; 4, torchvision's, for all other files.

    `content` is a file that `parse_resnet_weights` could read.
    """
    if not location.endswith(".safetensors"):
        return 4
    header_size = int.from_bytes(content[:8], "little")
    noted = json.loads(content[8 : 8 + header_size]).get("__metadata__", {}).get("stem_stride")
    strides: dict[str, StemStride] = {"2": 2, "1": 1}
    return strides.get(noted, 4)


def initialize_backbone(backbone: Backbone, location: str, content: bytes) -> str:
    """Load the weights of a file into a backbone. Returns a remark for the user.

    The first convolution is skipped if that of the file has another stride. Raises UserError if the file holds no
    ResNet, or another architecture.
    """
    found = parse_resnet_weights(location, content, (*PREFIXES, OWN_PREFIX))
    if found is None:
        raise _no_resnet(f"--init {location}")
    weights = {name: weight for name, weight in found.items() if name.partition(".")[0] in RESNET_PARTS}
    expected = backbone.resnet.state_dict()
    skipped = ""
    if weights[STEM].shape[2:] != expected[STEM].shape[2:]:
        sizes = (f"{size[0]}x{size[1]}" for size in (weights[STEM].shape[2:], expected[STEM].shape[2:]))
        skipped = "; {} was skipped, because it is {} in the file and {} here".format(STEM, *sizes)
        weights[STEM] = expected[STEM]
    counters = {name for name in expected if name.endswith("num_batches_tracked")}  # absent from older files
    weights |= {name: expected[name] for name in counters - weights.keys()}
    if wrong := [
        name
        for name in sorted(weights.keys() | expected.keys())
        if name not in weights or name not in expected or weights[name].shape != expected[name].shape
    ]:
        raise UserError(
            f"--init {location}: the weights of another network: {pluralize(len(wrong), 'tensor')} with an unexpected "
            f"name or shape: {', '.join(wrong[:MAX_NAMES])}{' ...' if len(wrong) > MAX_NAMES else ''}; choose the "
            "--backbone and --norm of the file"
        )
    backbone.resnet.load_state_dict(weights)
    return f"--init {location}: {pluralize(len(weights) - len(counters), 'tensor')} of the backbone loaded{skipped}"


def _no_resnet(where: str) -> UserError:
    return UserError(
        f"{where}: expected the weights of a ResNet (from torchvision, timm, this project, MoCo, DINO or SwAV), found "
        f"no tensor {STEM} in it"
    )


def _with_wrapped(state: Any) -> Iterator[dict[str, Tensor]]:
    """Yield the content of a file, and what it holds under a wrapper key, if these are state dicts."""
    if isinstance(state, dict):
        for candidate in (state, *(state[key] for key in WRAPPER_KEYS if key in state)):
            if isinstance(candidate, dict) and all(isinstance(value, Tensor) for value in candidate.values()):
                yield candidate
