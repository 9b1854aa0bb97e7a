"""Batches of training examples as a function of settings, step and rank, so that a run can resume at any step."""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import ImageFailure, UserError
from common.parallel import in_order
from labeler.teacher.training.config import TeacherTrainConfig
from labeler.teacher.training.data import TrainingData
from labeler.teacher.training.examples import TeacherExample, make_distillation_example, make_fixated_example
from labeler.teacher.training.views import draw_view

BATCHES_AHEAD = 2  # batches that threads prepare while the network trains on one


class TeacherBatch(NamedTuple):
    """Training examples of one step, stacked."""

    pixels: Tensor  # uint8 [B, 3, 480, 640]
    color_factors: Tensor  # [B, 3]
    targets: Tensor  # float32 [B, 120, 160]; zeros without fixations
    fixations: list[np.ndarray]  # B arrays [n, 2] of x, y in [0, 1]
    has_fixations: Tensor  # bool [B]


class Batches:
    """Batches of a whole training run for one of `world_size` ranks, which share each batch evenly.

    An epoch contains every image with fixations once and, for distillation, the next `distill_images` of the
    distillation images, in random order. Its last examples are dropped if they do not fill a batch. Raises UserError if
    the batch size cannot be shared evenly, or exceeds an epoch.
    """

    def __init__(
        self, config: TeacherTrainConfig, data: TrainingData, rank: int, world_size: int, threads: int
    ) -> None:
        self._config, self._data, self._rank, self._threads = config, data, rank, threads
        self._distill_images = (config.distill_images or len(data.fixated)) if data.distillation else 0
        images = len(data.fixated) + self._distill_images
        self.steps_per_epoch = images // config.batch_size
        self._images_per_rank, remainder = divmod(config.batch_size, world_size)
        if remainder:
            raise UserError(f"--batch-size {config.batch_size}: expected a multiple of --workers {world_size}")
        if not self.steps_per_epoch:
            raise UserError(
                f"--batch-size {config.batch_size}: expected at most {images:,}, the number of images in an epoch"
            )

    def from_step(self, step: int) -> Iterator[TeacherBatch]:
        """Yield the batches from a step to the end of the run, prepared ahead in threads."""
        steps = self._config.epochs * self.steps_per_epoch
        ahead = BATCHES_AHEAD * self._images_per_rank + 1  # when a batch is yielded, BATCHES_AHEAD more are pending
        with ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            examples = in_order(pool, self._make_example, self._epochs_and_indices(step, steps), ahead)
            for _ in range(step, steps):
                yield stack_examples(islice(examples, self._images_per_rank))

    def _epochs_and_indices(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield epoch and image index of each of this rank's examples in steps first ... end - 1."""
        order: list[int] = []
        for step in range(first, end):
            epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
            if not step_in_epoch or not order:
                order = self._epoch_order(epoch)
            start = step_in_epoch * self._config.batch_size + self._rank * self._images_per_rank
            for index in order[start : start + self._images_per_rank]:
                yield epoch, index

    def _epoch_order(self, epoch: int) -> list[int]:
        """Return the image indices of an epoch in random order; distillation image i has the index len(fixated) + i.

        Distillation images are used in passes over all of them, each in its own random order. An epoch continues the
        pass in which the previous epoch ended, so all images are used equally often whatever `distill_images` is.
        """
        fixated, distillation = len(self._data.fixated), len(self._data.distillation)
        positions = range(epoch * self._distill_images, (epoch + 1) * self._distill_images)
        orders = {
            number: np.random.default_rng([self._config.seed, 1, number]).permutation(distillation)
            for number in {position // distillation for position in positions}
        }
        chosen = [fixated + int(orders[position // distillation][position % distillation]) for position in positions]
        indices = np.array([*range(fixated), *chosen])
        return np.random.default_rng([self._config.seed, 0, epoch]).permutation(indices).tolist()

    def _make_example(self, epoch_and_index: tuple[int, int]) -> TeacherExample:
        """Make the example of an image in an epoch; an unreadable distillation image is replaced by the next one."""
        epoch, index = epoch_and_index
        config, fixated, distillation = self._config, self._data.fixated, self._data.distillation
        generator = np.random.default_rng([config.seed, 2, epoch, index])
        if index < len(fixated):
            return make_fixated_example(fixated[index], draw_view(generator, config.zoom, config.colour))
        for offset in range(len(distillation)):
            photograph = distillation[(index - len(fixated) + offset) % len(distillation)]
            try:
                view = draw_view(generator, config.distill_zoom, config.colour)
                return make_distillation_example(photograph, view)
            except ImageFailure as failure:
                print(f"{photograph.name}: skipped ({failure})", file=sys.stderr)
        raise UserError("--distill: none of the images can be read")


def stack_examples(examples: Iterable[TeacherExample]) -> TeacherBatch:
    """Stack examples into a batch."""
    pixels, color_factors, targets, fixations, has_fixations = zip(*examples, strict=True)
    return TeacherBatch(
        torch.stack(pixels),
        torch.tensor(color_factors),
        torch.stack(targets),
        list(fixations),
        torch.tensor(has_fixations),
    )
