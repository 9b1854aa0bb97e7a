"""The output of a run while it trains: checkpoints, metrics for programs and people, and the final result."""

import resource
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from common.errors import UserError, describe_error
from common.storage.run_folder import RunFolder
from common.training import METRICS_FILE, MetricLog, ProgressLine, load_checkpoint, save_checkpoint
from trainer.objectives import Model
from trainer.run_metrics import RunMetrics
from trainer.run_page.page import PAGE, RunPage
from trainer.step import Trainer

LAST, BEST, RESULT = "checkpoints/last", "checkpoints/best", "result.json"
AfterEpoch = Callable[[int, Model], dict[str, float]]  # called with the epoch, from 1, and the model; returns metrics
EPOCH_FIGURES = (
    "loss",
    "contrastive",
    "vicreg",
    "byol",
    "kld",
    "human_kld",
    "probe_accuracy",
    "knn_20",
)  # printed after each epoch
STEP_FIGURES = (*EPOCH_FIGURES, "learning_rate")  # on the progress line


def no_extra_figures(epoch: int, model: Model) -> dict[str, float]:
    """Add no metrics after an epoch."""
    return {}


class RunLog:
    """Checkpoints and metrics of a run; only rank 0 writes.

    A checkpoint is saved after each epoch and every `checkpoint_every` steps. The best checkpoint is that of the epoch
    with the highest probe accuracy or, without a probe, with the lowest loss.

    Args:
        folder: folder of the run.
        trainer: what is trained; `resume` restores it.
        steps_per_epoch: steps of an epoch.
        checkpoint_every: steps between two checkpoints within an epoch.
        classes: class names by index, saved in checkpoints; None without classes.
        after_epoch: computes additional metrics after each epoch, on every rank.
        page: page that shows the run; None on other ranks.
        metrics: exports metrics of each step; None on other ranks and outside of clusters.
    """

    def __init__(
        self,
        folder: RunFolder,
        trainer: Trainer,
        steps_per_epoch: int,
        checkpoint_every: int,
        classes: list[str] | None = None,
        after_epoch: AfterEpoch = no_extra_figures,
        page: RunPage | None = None,
        metrics: RunMetrics | None = None,
    ) -> None:
        self._folder, self._trainer, self._classes = folder, trainer, classes
        self._steps_per_epoch, self._checkpoint_every = steps_per_epoch, checkpoint_every
        self._after_epoch, self._page, self._metrics = after_epoch, page, metrics
        self._sums: dict[str, float] = {}  # of the current epoch's metrics
        self._means: dict[str, float] = {}  # metrics of the last complete epoch
        self._best: float | None = None
        self._writes = trainer.rank.index == 0
        self._start_time = self._last_step_time = time.monotonic()
        self._waited, self._first_step = 0.0, 0

    def resume(self) -> None:
        """Restore the trainer from the last checkpoint, if there is one. Raises UserError if it is of another model."""
        path = self._folder.fetch(LAST)
        if path.exists():
            state, expected = load_checkpoint(path), self._trainer.config.recipe
            if (found := state.get("recipe")) != expected:
                raise UserError(
                    f"{path}: expected a checkpoint of the recipe {expected}, found {found or 'another file'}"
                )
            try:
                self._trainer.restore(state)
                self._sums, self._means, self._best = state["sums"], state["means"], state["best"]
            except (RuntimeError, KeyError, ValueError) as error:
                raise UserError(f"{path}: a checkpoint of another model: {describe_error(error)[:200]}") from None
        self._first_step = self._trainer.step

    def __enter__(self) -> "RunLog":
        if self._writes:
            self._folder.fetch(METRICS_FILE)
            self._log = MetricLog(self._folder.path, self._first_step)
            if self._page:
                self._page.start(self._log)
            steps, batch_size = self._trainer.schedule.steps, self._trainer.config.batch_size
            self._line = ProgressLine(steps, self._first_step, batch_size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            self._log.close()
            self._line.close()
            self._folder.upload(METRICS_FILE, "tensorboard/*")
            if self._page and error:
                self._page.stop()

    def log_step(self, figures: dict[str, float], waited: float, skipped: int) -> None:
        """Log a step that is done; at the end of an epoch also its means. Save a checkpoint when one is due.

        Args:
            figures: metrics of the step.
            waited: seconds spent waiting for its batch.
            skipped: samples of the batch that were replaced because they cannot be read.
        """
        now, self._waited = time.monotonic(), self._waited + waited
        seconds, self._last_step_time = now - self._last_step_time, now
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        step, batch_size = self._trainer.step, self._trainer.config.batch_size
        epoch_ended = step % self._steps_per_epoch == 0
        if self._writes:
            speed = {
                "images_per_second": round(batch_size / max(seconds, 1e-9), 2),
                "waited": round(waited / max(seconds, 1e-9), 4),
                "memory_gb": round(_peak_memory(self._trainer.rank.device), 3),
            }
            self._log.write(step, **figures, **({"skipped": skipped} if skipped else {}), **speed)
            if self._metrics:
                self._metrics.update(step, figures | speed)
            self._line.step(**{name: figures[name] for name in STEP_FIGURES if name in figures})
        if epoch_ended:
            self._end_epoch()
        if epoch_ended or step % self._checkpoint_every == 0:
            self._save(LAST)

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the result: `summary`, the means of the last epoch, and the speed of the run."""
        seconds = time.monotonic() - self._start_time
        images = (self._trainer.step - self._first_step) * self._trainer.config.batch_size
        result = {
            **summary,
            **{name: value for name, value in self._means.items() if name != "learning_rate"},
            "steps": self._trainer.step,
            "seconds": round(seconds, 1),
            "images_per_second": round(images / seconds, 2),
            "waited": round(self._waited / seconds, 4),
        }
        is_new = bool(images) or not self._folder.fetch(RESULT).exists()
        if self._page and (is_new or not self._folder.fetch(PAGE).exists()):
            self._page.finish()
        if self._writes and is_new:
            self._folder.write_json(RESULT, result)

    def _end_epoch(self) -> None:
        self._means = {name: value / self._steps_per_epoch for name, value in self._sums.items()}
        self._sums = {}
        epoch = self._trainer.step // self._steps_per_epoch
        self._means |= self._after_epoch(epoch, self._trainer.model)
        score = self._means.get("probe_accuracy", -self._means["loss"])
        is_best = self._best is None or score > self._best
        if is_best:
            self._best = score
        if self._writes:
            self._log.write(self._trainer.step, epoch=epoch, means=self._means)
            figures = (f"{name} {self._means[name]:.4g}" for name in EPOCH_FIGURES if name in self._means)
            self._line.log(f"epoch {epoch}/{self._trainer.config.epochs}: {', '.join(figures)}")
        if self._page:
            self._page.update(epoch, self._means)
        if is_best:
            self._save(BEST)

    def _save(self, name: str) -> None:
        if self._writes:
            state: dict[str, Any] = {
                "recipe": self._trainer.config.recipe,
                "config": self._trainer.config.model_dump(mode="json"),
                "classes": self._classes,
            }
            state |= {"sums": self._sums, "means": self._means, "best": self._best, **self._trainer.state()}
            save_checkpoint(self._folder.path / name, state)
            # the log first: lines after the checkpoint are written again on resume, missing ones would stay missing
            self._folder.upload(METRICS_FILE, "tensorboard/*")
            self._folder.upload(name)


def _peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process so far in GB: of the GPU, or of the machine without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
