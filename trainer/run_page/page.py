"""The page of a run while it trains: written at the start, and again after each epoch and at the end."""

import json
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from common.errors import UserError, describe_error
from common.storage.run_folder import RunFolder
from common.training import METRICS_FILE, MetricLog
from trainer.data.dataset import Dataset
from trainer.recipes import describe_recipe, get_recipe
from trainer.run_page.layout import Gallery, Status, draw_page, draw_sheet
from trainer.run_page.maps import (
    MAPS_FILE,
    EpochMaps,
    keep_shown,
    load_maps,
    plan_epochs,
    predict_maps,
    save_maps,
    show_targets,
)
from trainer.run_page.samples import PageSample, read_page_samples
from trainer.step import Trainer

PAGE = "index.html"
NO_MAPS = "This recipe predicts no attention map of a single photograph, so there are curves only."


class RunPage:
    """The page of a run. Only rank 0 has one.

    It does not change the training. If samples cannot be read, the page says so; if the page cannot be written, the
    methods raise UserError, as for checkpoints.

    Args:
        folder: folder of the run.
        trainer: what is trained; the page shows its model, from the step that it has when `start` is called.
        data: data set to train on, from which the samples on the page are drawn.
        steps_per_epoch: steps of an epoch.
    """

    def __init__(self, folder: RunFolder, trainer: Trainer, data: Dataset, steps_per_epoch: int) -> None:
        self._folder, self._trainer, self._data, self._steps_per_epoch = folder, trainer, data, steps_per_epoch
        self._samples: list[PageSample] = []
        self._maps: dict[int, EpochMaps] = {}  # of the epochs shown
        self._means: dict[int, dict[str, float]] = {}  # by epoch
        self._remarks: list[str] = []  # why maps are absent

    def start(self, log: MetricLog) -> None:
        """Read the samples and what earlier epochs have left; write the page unless the run is complete.

        Args:
            log: gets the pictures for TensorBoard.
        """
        self._log, self._first_step, self._start_time = log, self._trainer.step, time.monotonic()
        self._means = read_means(self._folder)
        epoch, steps_since = divmod(self._trainer.step, self._steps_per_epoch)
        self._read_samples()
        self._load_maps(epoch)
        if steps_since == 0 and epoch not in self._maps:
            self._add_maps(epoch)
        if self._trainer.step < self._trainer.schedule.steps:
            self._write("training")

    def update(self, epoch: int, means: Mapping[str, float]) -> None:
        """Add the model's maps and the means of the metrics after an epoch, counted from 1."""
        self._means[epoch] = _drop_infinite(means)
        self._add_maps(epoch)
        self._write("training")

    def finish(self) -> None:
        """Write the page of a complete run."""
        self._write("finished")

    def stop(self) -> None:
        """Write the page of a run that ends before it is complete."""
        self._write("stopped")

    def _read_samples(self) -> None:
        config = self._trainer.config
        try:
            samples = read_page_samples(self._data, config.seed, config.image_size)
            self._samples = show_targets(self._trainer.model, samples, self._trainer.rank.device)
        except UserError as error:
            self._remarks.append(f"The samples of this page cannot be read: {error}")

    def _load_maps(self, last: int) -> None:
        try:
            self._maps = load_maps(self._folder, last)
        except Exception as error:  # NumPy raises many types for damaged files
            self._remarks.append(f"{MAPS_FILE}, the maps of earlier epochs, cannot be read: {describe_error(error)}")

    def _add_maps(self, epoch: int) -> None:
        if not self._samples:
            return
        maps = predict_maps(self._trainer.model, self._samples, self._trainer.rank.device)
        if maps is None:
            self._samples, self._remarks = [], [NO_MAPS]
            return
        epochs = self._trainer.config.epochs
        self._maps = keep_shown({**self._maps, epoch: maps}, epochs)
        save_maps(self._folder, self._maps)
        if epoch in plan_epochs(epochs):  # event files only grow
            self._log.write_picture(self._trainer.step, "attention_maps", draw_sheet(self._samples, maps))

    def _write(self, state: str) -> None:
        trainer, config = self._trainer, self._trainer.config
        seconds, steps = time.monotonic() - self._start_time, trainer.step - self._first_step
        status = Status(
            title=f"{config.recipe}, {config.backbone}",
            description=describe_recipe(config.recipe),
            target=get_recipe(config.recipe).target,
            epoch=trainer.step // self._steps_per_epoch,
            epochs=config.epochs,
            state=state,
            chance=1 / self._data.classes if self._data.classes else None,
            speed=steps * config.batch_size / seconds if steps else None,
            seconds_left=(trainer.schedule.steps - trainer.step) * seconds / steps if steps else None,
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )
        gallery = Gallery(self._samples, self._maps, self._remarks)
        self._folder.write(PAGE, draw_page(status, self._means, gallery))


def read_means(folder: RunFolder) -> dict[int, dict[str, float]]:
    """Return the means of the metrics over each epoch, by epoch, from the local metric log of a run."""
    lines = [line for line in (folder.path / METRICS_FILE).read_text().splitlines() if '"means"' in line]
    return {entry["epoch"]: _drop_infinite(entry["means"]) for entry in map(json.loads, lines)}


def _drop_infinite(means: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in means.items() if math.isfinite(value)}
