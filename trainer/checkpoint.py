"""Loading of trained models from the checkpoints of `trainer.run`, for export, evaluation and use in other code."""

import hashlib
from dataclasses import dataclass
from typing import Any

from common.errors import UserError, describe_error
from common.storage import open_storage
from common.storage.torch_files import load_torch_file
from trainer.config import ADDED_SETTINGS, TrainConfig
from trainer.objectives import Model
from trainer.recipes import build

CHECKPOINT_KEYS = {"config", "classes", "model", "step"}  # those needed to rebuild the model
MAX_REASON_LENGTH = 200  # characters of torch's message that an error repeats


@dataclass(frozen=True)
class Trained:
    """A trained model and the description of its run that the checkpoint contains.

    Attributes:
        model: the model, in evaluation mode, on the CPU.
        config: the settings that the model was trained with.
        classes: class names by index; None if the model has neither probe nor classifier.
        step: number of steps that the model was trained for.
        sha256: SHA-256 of the checkpoint file, as hex digits.
    """

    model: Model
    config: TrainConfig
    classes: list[str] | None
    step: int
    sha256: str


def load_trained(location: str) -> Trained:
    """Load the trained model of a checkpoint, without running any code that the file may contain.

    Args:
        location: checkpoint of a run, such as `RUN/checkpoints/best`: a local path or `s3://BUCKET/KEY`.

    Raises UserError if there is no such file, if it is not a checkpoint of `trainer.run`, or if it is damaged.

    Example::

        import torch
        from trainer.checkpoint import load_trained

        trained = load_trained("runs/demo/training/checkpoints/best")
        images = torch.rand(2, 3, 64, 64)  # RGB in [0, 1]; the model applies mean and std itself
        with torch.no_grad():
            features = trained.model.features(images)  # [2, channels]
            attention = trained.model.attention(images)  # [2, 64, 64]; None for recipes that predict no attention
            logits = trained.model.logits(images)  # [2, len(trained.classes)]; None without classes
    """
    return parse_checkpoint(location, read_checkpoint(location))


def read_checkpoint(location: str) -> bytes:
    """Read a checkpoint or a weights file, local or in S3. Raises UserError if there is none."""
    folder, _, name = location.rpartition("/")
    try:
        return open_storage(folder or ("/" if location.startswith("/") else ".")).read(name)
    except OSError as error:
        found = "a folder" if isinstance(error, IsADirectoryError) else "nothing that can be read"
        raise UserError(
            f"{location}: expected a checkpoint, such as RUN/checkpoints/best, or a weights file, found {found}"
        ) from None


def parse_checkpoint(location: str, content: bytes) -> Trained:
    """Build the trained model from the content of a checkpoint; errors name its `location`. Raises UserError."""
    state = _parse_state(location, content)
    try:
        config, classes = TrainConfig(**ADDED_SETTINGS | state["config"]), state["classes"]
        model = build(config.recipe, config, None if classes is None else len(classes))
        model.load_state_dict(state["model"])
    except (RuntimeError, TypeError, ValueError) as error:
        reason = describe_error(error)[:MAX_REASON_LENGTH]
        raise UserError(f"{location}: the weights in the checkpoint do not match its settings: {reason}") from None
    return Trained(model.eval(), config, classes, state["step"], hashlib.sha256(content).hexdigest())


def _parse_state(location: str, content: bytes) -> dict[str, Any]:
    state = load_torch_file(location, content)
    if not isinstance(state, dict) or not state.keys() >= CHECKPOINT_KEYS:
        raise UserError(f"{location}: expected a checkpoint of trainer.run, found another PyTorch file")
    return state
