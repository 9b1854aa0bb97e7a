"""Files of weights that others saved: the tensors by torchvision's names, however they are wrapped."""

import io
import re
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from common.errors import UserError, told

WRAPPERS = ("state_dict", "model")  # keys of training checkpoints that hold the weights beside other things
PARALLEL = "module."  # what DataParallel puts before each name
FOREIGN = re.compile(r"Unsupported global: GLOBAL (\S+)")  # how torch names what it does not unpickle


def plain_weights(location: str, content: bytes) -> dict[str, Tensor] | None:
    """The tensors of a weights file; None where the file is something else, a checkpoint of ours perhaps.

    They may lie under `state_dict` or `model`, with `module.` before their names. Raises UserError.
    """
    if location.endswith(".safetensors"):
        try:
            return _unprefixed(safetensors.torch.load(content))
        except Exception as error:  # it raises many kinds on damaged files
            raise _unreadable(location, error) from None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # as above
        raise _unreadable(location, error) from None
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


def _unreadable(location: str, error: Exception) -> UserError:
    if foreign := FOREIGN.search(str(error)):
        return UserError(
            f"{location}: expected tensors alone, found a pickled {foreign[1]}, which could run any program; "
            "save the model's state_dict() instead"
        )
    # torch's first sentences on pickles tell how to load them nevertheless
    reason = told(error).rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
    return UserError(f"{location}: cannot be read as a checkpoint: {reason[:200]}")
