"""A trained model from the checkpoint of a run: what export and evaluation begin with."""

import hashlib
from dataclasses import dataclass
from typing import Any

from common.errors import UserError, describe_error
from common.storage import open_storage
from common.training import load_torch_file
from trainer.config import TrainConfig
from trainer.objectives import Model
from trainer.recipes import build


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode, on the CPU, and what its checkpoint says of it."""

    model: Model
    config: TrainConfig
    classes: list[str] | None  # names by class index; None: it knows no classes
    step: int
    sha256: str  # of the checkpoint


def read_checkpoint(location: str) -> bytes:
    """The content of a checkpoint or a weights file, local or in S3. Raises UserError."""
    folder, _, name = location.rpartition("/")
    try:
        return open_storage(folder or ("/" if location.startswith("/") else ".")).read(name)
    except OSError as error:
        found = "a folder" if isinstance(error, IsADirectoryError) else "nothing that can be read"
        raise UserError(
            f"{location}: expected a checkpoint, such as RUN/checkpoints/best, or a weights file, found {found}"
        ) from None


def load_trained(location: str) -> Trained:
    """The model of a checkpoint (`RUN/checkpoints/best`), local or in S3. Raises UserError."""
    return trained_from(location, read_checkpoint(location))


def trained_from(location: str, content: bytes) -> Trained:
    """The model of a checkpoint with this content. Raises UserError."""
    state = _state(location, content)
    try:
        config, classes = TrainConfig(**state["config"]), state["classes"]
        model = build(config.recipe, config, None if classes is None else len(classes))
        model.load_state_dict(state["model"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{location}: its weights are not those of its settings: {describe_error(error)[:200]}"
        ) from None
    return Trained(model.eval(), config, classes, state["step"], hashlib.sha256(content).hexdigest())


def _state(location: str, content: bytes) -> dict[str, Any]:
    state = load_torch_file(location, content)
    if not isinstance(state, dict) or not state.keys() >= {"config", "classes", "model", "step"}:
        raise UserError(f"{location}: expected a checkpoint of trainer.run, found another file of PyTorch's")
    return state
