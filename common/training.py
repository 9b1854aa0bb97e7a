"""What every training run needs: checkpoints that are whole, a log of figures, a schedule, a line of progress."""

import io
import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError, describe_error
from common.progress import progress_bar
from common.storage.files import open_atomically, write_atomically
from common.storage.run_folder import RunFolder

METRICS = "metrics.jsonl"
FOREIGN_OBJECT = re.compile(r"Unsupported global: GLOBAL (\S+)")  # how torch names what it does not unpickle


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at a step: a straight rise over `warmup` steps, then a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises UserError."""
    try:
        with open_atomically(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch tells of a full disk
        raise UserError(
            f"{path}: the checkpoint cannot be written, the last one stays: {describe_error(error)[:200]}"
        ) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint's state, its tensors on the CPU. Raises UserError if the file is not a checkpoint."""
    state = load_torch_file(str(path), path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: expected a checkpoint, found a {type(state).__name__}")
    return state


def load_torch_file(location: str, file: Path | bytes) -> Any:
    """Load what `torch.save` wrote, tensors on the CPU, without running any code that the file may hold.

    Args:
        location: name of the file for error messages.
        file: its path or its content.

    Raises UserError if it is damaged, or holds pickled objects other than tensors and plain values.
    """
    try:
        return torch.load(io.BytesIO(file) if isinstance(file, bytes) else file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types on damaged files
        if foreign := FOREIGN_OBJECT.search(str(error)):
            raise UserError(
                f"{location}: expected tensors alone, found a pickled {foreign[1]}, which could run any program; "
                "save the model's state_dict() instead"
            ) from None
        # torch's first sentences on pickles explain how to load them anyway
        reason = (
            describe_error(error).rpartition("WeightsUnpickler error: ")[2].partition(" Check the documentation")[0]
        )
        raise UserError(f"{location}: cannot be read as a checkpoint: {reason[:200]}") from None


def save_or_check_settings(folder: RunFolder, name: str, settings: dict[str, Any]) -> None:
    """Save the settings of a new run, or check that a resumed run has the same. Raises UserError on a difference."""
    if before := folder.read_json(name):
        check_same_settings(folder.location, before, settings)
    else:
        folder.write_json(name, settings)


def split_by_weight_decay(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Split parameters into those that decay (weights of convolutions and linear layers) and the rest.

    Biases and normalization parameters, which have one dimension, do not decay.
    """
    parameters = list(parameters)
    return [one for one in parameters if one.ndim > 1], [one for one in parameters if one.ndim <= 1]


def check_same_settings(location: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A run goes on with the settings that it began with. Raises UserError that names what differs."""
    if different := [name for name in now if before.get(name) != now[name]]:
        found = "; ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in different)
        raise UserError(f"--output {location} holds a run with other settings: {found}; choose another folder")


class MetricLog:
    """`metrics.jsonl` for programs and TensorBoard's events for people, in a run's folder.

    A run that goes on from `step` first loses what had been logged after it, so that its curve is that of a run which
    never stopped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter  # half a second to import

        self._path = folder / METRICS
        kept = [line for line in _lines(self._path) if json.loads(line)["step"] <= step]
        write_atomically(self._path, "".join(f"{line}\n" for line in kept).encode())
        self._file = open(self._path, "a", buffering=1)  # noqa: SIM115 - closed by close()
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, **figures: float | dict[str, float]) -> None:
        """Log the figures of a step; a dict is a group of them."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            group = value if isinstance(value, dict) else {"": value}
            for part, figure in group.items():
                self._events.add_scalar(f"{name}/{part}" if part else name, figure, step)

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._events.close()


class ProgressLine:
    """Steps done, the latest figures, the rate and the time left: in place on a terminal, now and then in a log."""

    def __init__(self, steps: int, first: int, images_per_step: int) -> None:
        self._images = images_per_step
        self._bar = progress_bar(
            total=steps,
            initial=first,
            bar_format="step {n_fmt}/{total_fmt}{postfix}, {remaining} left",
            smoothing=0.05,
        )

    def step(self, **figures: float) -> None:
        """One more step is done."""
        rate = self._bar.format_dict["rate"]
        speed = f", {rate * self._images:.1f} images/s" if rate else ""
        self._bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in figures.items()) + speed, False)
        self._bar.update()

    def log(self, text: str) -> None:
        """A line above the progress line."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()


def _lines(path: Path) -> list[str]:
    """The whole lines of a log; the last one may have been cut off."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
