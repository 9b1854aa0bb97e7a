"""What a run leaves behind while it trains: checkpoints, metrics for programs and people, and its result."""

import resource
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from common.errors import UserError, describe_error
from common.storage.run_folder import RunFolder
from common.training import METRICS, MetricLog, ProgressLine, load_checkpoint, save_checkpoint
from trainer.loop import Trainer
from trainer.objectives.base import Model

LAST, BEST, RESULT = "checkpoints/last", "checkpoints/best", "result.json"
AfterEpoch = Callable[[int, Model], dict[str, float]]  # an epoch, counted from 1, and the model -> further figures
SHOWN = ("loss", "contrastive", "kld", "human_kld", "probe_accuracy", "learning_rate")  # on the line of progress


def no_extra_figures(epoch: int, model: Model) -> dict[str, float]:
    """No further figures after an epoch."""
    return {}


class RunLog:
    """Keeps a training's checkpoints and figures in its folder; only rank 0 writes.

    A checkpoint is made after each epoch and every so many steps. The best one is that of the epoch whose probe is
    right most often or, without a probe, whose loss is lowest.
    """

    def __init__(
        self,
        folder: RunFolder,
        training: Trainer,
        steps_per_epoch: int,
        checkpoint_every: int,
        classes: list[str] | None = None,
        after_epoch: AfterEpoch = no_extra_figures,
    ) -> None:
        self._folder, self._training, self._classes = folder, training, classes
        self._steps_per_epoch, self._every, self._after_epoch = steps_per_epoch, checkpoint_every, after_epoch
        self._sums: dict[str, float] = {}  # of the figures of this epoch
        self._means: dict[str, float] = {}  # of those of the last whole one
        self._best: float | None = None
        self._writes = training.rank.index == 0
        self._began = self._moved = time.monotonic()
        self._waited, self._first = 0.0, 0

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one. Raises UserError where it is of another model."""
        path = self._folder.fetch(LAST)
        if path.exists():
            state, expected = load_checkpoint(path), self._training.config.recipe
            if (found := state.get("recipe")) != expected:
                raise UserError(
                    f"{path}: expected a checkpoint of the recipe {expected}, found {found or 'another file'}"
                )
            try:
                self._training.restore(state)
                self._sums, self._means, self._best = state["sums"], state["means"], state["best"]
            except (RuntimeError, KeyError, ValueError) as error:
                raise UserError(f"{path}: a checkpoint of another model: {describe_error(error)[:200]}") from None
        self._first = self._training.step

    def __enter__(self) -> "RunLog":
        if self._writes:
            self._folder.fetch(METRICS)
            self._log = MetricLog(self._folder.path, self._first)
            self._line = ProgressLine(self._training.plan.steps, self._first, self._training.config.batch_size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            self._log.close()
            self._line.close()
            self._folder.keep(METRICS, "tensorboard/*")

    def note(self, figures: dict[str, float], waited: float, skipped: int) -> None:
        """A step is done: `figures` of its batch, seconds waited for it, and samples of it that stand for others."""
        now, self._waited = time.monotonic(), self._waited + waited
        seconds, self._moved = now - self._moved, now
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        step, config = self._training.step, self._training.config
        ended = step % self._steps_per_epoch == 0
        if self._writes:
            speed = {
                "images_per_second": round(config.batch_size / max(seconds, 1e-9), 2),
                "waited": round(waited / max(seconds, 1e-9), 4),
                "memory_gb": round(_memory(self._training.rank.device), 3),
            }
            self._log.write(step, **figures, **({"skipped": skipped} if skipped else {}), **speed)
            self._line.step(**{name: figures[name] for name in SHOWN if name in figures})
        if ended:
            self._end_epoch()
        if ended or step % self._every == 0:
            self._save(LAST)

    def finish(self, summary: dict[str, Any]) -> None:
        """The last step is done: write the result."""
        seconds = time.monotonic() - self._began
        images = (self._training.step - self._first) * self._training.config.batch_size
        result = {
            **summary,
            **{name: value for name, value in self._means.items() if name != "learning_rate"},
            "steps": self._training.step,
            "seconds": round(seconds, 1),
            "images_per_second": round(images / seconds, 2),
            "waited": round(self._waited / seconds, 4),
        }
        if self._writes and (images or not self._folder.fetch(RESULT).exists()):
            self._folder.write_json(RESULT, result)

    def _end_epoch(self) -> None:
        self._means = {name: value / self._steps_per_epoch for name, value in self._sums.items()}
        self._sums = {}
        epoch = self._training.step // self._steps_per_epoch
        self._means |= self._after_epoch(epoch, self._training.model)
        score = self._means.get("probe_accuracy", -self._means["loss"])
        better = self._best is None or score > self._best
        if better:
            self._best = score
        if self._writes:
            self._log.write(self._training.step, epoch=epoch, means=self._means)
            shown = (f"{name} {self._means[name]:.4g}" for name in SHOWN[:-1] if name in self._means)
            self._line.log(f"epoch {epoch}/{self._training.config.epochs}: {', '.join(shown)}")
        if better:
            self._save(BEST)

    def _save(self, name: str) -> None:
        if self._writes:
            state: dict[str, Any] = {
                "recipe": self._training.config.recipe,
                "config": self._training.config.model_dump(mode="json"),
                "classes": self._classes,
            }
            state |= {"sums": self._sums, "means": self._means, "best": self._best, **self._training.state()}
            save_checkpoint(self._folder.path / name, state)
            self._folder.keep(METRICS, "tensorboard/*")  # first: what a log has beyond the checkpoint is made anew
            self._folder.keep(name)


def _memory(device: torch.device) -> float:
    """The most that this process has used so far, in GB: of the GPU, or of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
