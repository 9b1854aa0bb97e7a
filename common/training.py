"""Building blocks of training runs: atomic checkpoints, a learning rate schedule, a metric log and a progress line."""

import io
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError, describe_error, uninterrupted
from common.progress import progress_bar
from common.storage.files import write_atomically
from common.storage.run_folder import RunFolder
from common.storage.torch_files import load_torch_file

METRICS_FILE = "metrics.jsonl"


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate at a step as a fraction of its peak.

    It rises linearly over the first `warmup` of all `steps`, then falls to 0 along half a cosine.
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically. Raises UserError if that fails; an earlier file at this path is not changed."""
    content = io.BytesIO()  # torch.save to a file turns what a write raises, also KeyboardInterrupt, into RuntimeError
    torch.save(state, content)
    try:
        write_atomically(path, content.getbuffer())
    except OSError as error:
        reason = error.strerror or describe_error(error)
        raise UserError(f"{path}: the checkpoint cannot be written, the previous one is unchanged: {reason}") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load the state of a run to be resumed, with tensors on the CPU. Raises UserError if it is not a checkpoint."""
    state = load_torch_file(str(path), path, advice="restore it, or remove it to train from the start")
    if not isinstance(state, dict):
        raise UserError(f"{path}: expected a checkpoint, found a {type(state).__name__}")
    return state


def save_or_check_settings(
    folder: RunFolder, name: str, settings: dict[str, Any], added: Mapping[str, Any] | None = None
) -> None:
    """Save the settings of a new run, or check that a resumed run has the same. Raises UserError on a difference.

    `added` holds the values of settings that runs of earlier versions lack.
    """
    before = folder.read_json(name)
    if before is None:
        folder.write_json(name, settings)
    elif isinstance(before, dict):
        check_same_settings(folder.location, {**(added or {}), **before}, settings)
    else:
        raise UserError(
            f"{folder.location}/{name}: expected the settings of a run, found another file; choose another folder"
        )


def check_same_settings(location: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Check that a resumed run has the settings it was started with. Raises UserError that names the differences."""
    if different := [name for name in now if before.get(name) != now[name]]:
        found = "; ".join(f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in different)
        raise UserError(f"--output {location} holds a run with other settings: {found}; choose another folder")


def split_by_weight_decay(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Split parameters into those that decay (weights of convolutions and linear layers) and the rest.

    Biases and normalization parameters, which have one dimension, do not decay.
    """
    parameters = list(parameters)
    decayed = [parameter for parameter in parameters if parameter.ndim > 1]
    return decayed, [parameter for parameter in parameters if parameter.ndim <= 1]


class MetricLog:
    """Writer of a run's metrics, to `metrics.jsonl` and to TensorBoard event files.

    A run that resumes from `step` first removes later entries from the log, so that no step is logged twice.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from tensorboardX import SummaryWriter  # half a second to import

        self._path = folder / METRICS_FILE
        earlier = [line for line in _complete_lines(self._path) if json.loads(line)["step"] <= step]
        write_atomically(self._path, "".join(f"{line}\n" for line in earlier).encode())
        self._file = open(self._path, "a", buffering=1)  # noqa: SIM115 - closed by close()
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, **metrics: float | dict[str, float]) -> None:
        """Log the metrics of a step; a dict is a named group of metrics."""
        with uninterrupted():  # tensorboardX passes them to a thread, for which `close` waits
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            for name, value in metrics.items():
                group = value if isinstance(value, dict) else {"": value}
                for part, number in group.items():
                    self._events.add_scalar(f"{name}/{part}" if part else name, number, step)

    def write_picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Log a picture, uint8 [H, W, 3], of a step to TensorBoard."""
        with uninterrupted():
            self._events.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close all files."""
        self._file.close()
        self._events.close()


class ProgressLine:
    """Progress of a training run: steps, latest metrics, images per second and remaining time."""

    def __init__(self, steps: int, first: int, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._bar = progress_bar(
            total=steps,
            initial=first,
            bar_format="step {n_fmt}/{total_fmt}{postfix}, {remaining} left",
            smoothing=0.05,
        )

    def step(self, **metrics: float) -> None:
        """Count one more step and show its metrics."""
        rate = self._bar.format_dict["rate"]
        speed = f", {rate * self._images_per_step:.1f} images/s" if rate else ""
        text = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self._bar.set_postfix_str(text + speed, False)
        self._bar.update()

    def log(self, text: str) -> None:
        """Print a line above the progress line."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Stop updating; the line stays on the screen."""
        self._bar.close()


def _complete_lines(path: Path) -> list[str]:
    """Return the lines of a log, without a last one that was cut off by an interruption."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
