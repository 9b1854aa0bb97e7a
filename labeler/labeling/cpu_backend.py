"""Labeling on a CPU: threads decode, resize and extract gaze points, image by image."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from common.gaze import GAZE_SIGMA, gaze_points
from common.images import read_photograph
from common.manifest import LabelConfig
from labeler.labeling.backend import Backend, LoadedImage
from labeler.labeling.label import Label, make_label, predict_maps, to_teacher_input
from labeler.labeling.perceptual_hash import format_hash, hash_images, upright_size
from labeler.labeling.timing import PhaseTimer
from labeler.teacher.model import TeacherModel


class CpuBackend(Backend):
    """Backend for a worker without a GPU."""

    def __init__(self, teacher: TeacherModel, config: LabelConfig) -> None:
        # in plans of earlier versions, the batch size also applied to CPUs
        batch_size = (config.batch_size or 1) if config.is_of_earlier_version else 1
        super().__init__(teacher, config, torch.device("cpu"), batch_size)
        torch.set_num_threads(1)  # one core per worker; sums do not depend on the number of cores

    def load(self, content: bytes) -> LoadedImage:
        pixels, stored = read_photograph(content, self.config.max_pixels, self.config.min_side)
        return LoadedImage(stored, to_teacher_input(pixels, stored.orientation))

    def predict(self, images: Sequence[LoadedImage], timer: PhaseTimer) -> list[Callable[[], Label]]:
        with timer.measure("teacher"):
            inputs = torch.stack([image.pixels for image in images if image.pixels is not None])
            maps = predict_maps(self.teacher, inputs, self.config.map_size)
            codes = hash_images(inputs, [upright_size(image.stored) for image in images]).numpy()
        stored, grids, maxima = (tensor.numpy() for tensor in maps)
        return [
            functools.partial(
                make_label,
                stored[index],
                float(maxima[index]),
                functools.partial(self._find_points, grids[index]),
                image.stored.orientation,
                format_hash(codes[index]),
            )
            for index, image in enumerate(images)
        ]

    def _find_points(self, grid: np.ndarray) -> np.ndarray:
        return gaze_points(grid, GAZE_SIGMA, self.config.gaze_threshold, self.config.max_gaze_points)
