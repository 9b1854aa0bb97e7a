"""What every training run needs: checkpoints that are whole, a log of figures, a schedule, a line of progress."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common.errors import UserError, told
from common.files import whole_file, write_whole
from common.progress import progress_bar

METRICS = "metrics.jsonl"


def warmup_cosine(step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at a step: a straight rise over `warmup` steps, then a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, whole or not at all. Raises UserError."""
    try:
        with whole_file(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # RuntimeError: how torch tells of a full disk
        raise UserError(f"{path}: the checkpoint cannot be written, the last one stays: {told(error)[:200]}") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's state, its tensors on the CPU. Raises UserError where the file cannot be read as one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        raise UserError(f"{path}: cannot be read as a checkpoint: {told(error)[:200]}") from None
    if not isinstance(state, dict):
        raise UserError(f"{path}: expected a checkpoint, found a {type(state).__name__}")
    return state


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
        write_whole(self._path, "".join(f"{line}\n" for line in kept).encode())
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

    def tell(self, text: str) -> None:
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
