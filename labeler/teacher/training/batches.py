"""The batches of an epoch: a pure function of settings, epoch and rank, so that a run can go on from any step."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import ImageFailure, UserError
from labeler.teacher.training.config import TeacherTrainConfig
from labeler.teacher.training.examples import (
    Photograph,
    TeacherExample,
    TrainingData,
    make_human_example,
    make_unlabeled_example,
    warn_of,
)

AHEAD = 2  # batches that are being made while one is learnt from


class TeacherBatch(NamedTuple):
    """Examples side by side: uint8 [B, 3, 480, 640], colours [B, 3], maps [B, 120, 160], points, labelled bool [B]."""

    pixels: Tensor
    colours: Tensor
    targets: Tensor
    points: list[np.ndarray]
    labelled: Tensor


class Batches:
    """All batches of a run, for one rank of `world`; each rank has an equal part of every batch."""

    def __init__(self, config: TeacherTrainConfig, data: TrainingData, rank: int, world: int, threads: int) -> None:
        self._config, self._data, self._rank, self._world, self._threads = config, data, rank, world, threads
        self._drawn = (config.distill_images or len(data.human)) if data.unlabelled else 0
        self.steps_per_epoch = (len(data.human) + self._drawn) // config.batch_size
        if config.batch_size % world:
            raise UserError(f"--batch-size {config.batch_size}: expected a multiple of --workers {world}")
        if not self.steps_per_epoch:
            raise UserError(
                f"--batch-size {config.batch_size}: there are only {len(data.human) + self._drawn} images in an epoch"
            )

    def from_step(self, step: int) -> Iterator[TeacherBatch]:
        """The batches from a step of the run on, to its end, made in threads ahead of their use."""
        with ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: deque[list[Future[TeacherExample]]] = deque()
            for indices, epoch in self._remaining(step):
                waiting.append([pool.submit(self._example, index, epoch) for index in indices])
                if len(waiting) > AHEAD:
                    yield _joined(waiting.popleft())
            while waiting:
                yield _joined(waiting.popleft())

    def _remaining(self, step: int) -> Iterator[tuple[list[int], int]]:
        part = self._config.batch_size // self._world
        for epoch in range(step // self.steps_per_epoch, self._config.epochs):
            order = self._order(epoch)
            first = step % self.steps_per_epoch if epoch == step // self.steps_per_epoch else 0
            for number in range(first, self.steps_per_epoch):
                start = number * self._config.batch_size + self._rank * part
                yield order[start : start + part], epoch

    def _order(self, epoch: int) -> list[int]:
        """An epoch's examples: all with fixations, and the next of the others; these count on from the former."""
        human, others = len(self._data.human), len(self._data.unlabelled)
        positions = range(epoch * self._drawn, (epoch + 1) * self._drawn)
        rounds = {position // others for position in positions}
        shuffled = {
            number: np.random.default_rng([self._config.seed, 1, number]).permutation(others) for number in rounds
        }
        drawn = [human + int(shuffled[position // others][position % others]) for position in positions]
        order = np.array([*range(human), *drawn])
        return np.random.default_rng([self._config.seed, 0, epoch]).permutation(order).tolist()

    def _example(self, index: int, epoch: int) -> TeacherExample:
        generator = np.random.default_rng([self._config.seed, 2, epoch, index])
        human, others, config = self._data.human, self._data.unlabelled, self._config
        if index < len(human):
            return make_human_example(human[index], generator, config.zoom, config.colour)
        for further in range(len(others)):
            photograph = others[(index - len(human) + further) % len(others)]
            try:
                return make_unlabeled_example(photograph, generator, config.distill_zoom, config.colour)
            except ImageFailure as failure:
                assert isinstance(photograph, Photograph)
                warn_of(photograph, failure)
        raise UserError("--distill: none of the images can be read")


def _joined(examples: list[Future[TeacherExample]]) -> TeacherBatch:
    pixels, colours, targets, points, labelled = zip(*(future.result() for future in examples), strict=True)
    return TeacherBatch(
        torch.stack(pixels), torch.tensor(colours), torch.stack(targets), list(points), torch.tensor(labelled)
    )
