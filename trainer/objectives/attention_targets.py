"""What the attention branch must predict: the maps and gaze points of the data set, or those of a control.

A target is computed from the whole batch of a rank, after the forward pass, so it is the same if the batch is computed
in pieces.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.gaze import GAZE_GRID, GAZE_SIGMA, batch_gaze_points, gaze_points
from common.saliency import resize_maps
from trainer.model.spectral_residual import spectral_residual
from trainer.objectives.base import ModelInputs

CENTER_SIDE = 224  # pixels of the mean map; the default size of the maps in shards


class Targets(NamedTuple):
    """Targets of the m clean images of a batch.

    Attributes:
        maps: non-negative maps, float [m, S, S].
        points: gaze points that belong to these maps, m arrays [k, 2 or more] of x, y in [0, 1].
    """

    maps: Tensor
    points: Sequence[Any]


class TeacherTarget(nn.Module):
    """The map and the gaze points of each image, as the batch contains them."""

    def forward(self, inputs: ModelInputs) -> Targets:
        return Targets(inputs.attention, inputs.gaze)


class PermutedTarget(nn.Module):
    """The map and the gaze points of another image of the rank's batch, drawn anew in each step.

    Each map is the target of exactly one image. Needs batches of two images or more per rank.
    """

    def forward(self, inputs: ModelInputs) -> Targets:
        others = draw_derangement(np.random.default_rng(inputs.seed), len(inputs.attention)).tolist()
        return Targets(inputs.attention[others], [inputs.gaze[other] for other in others])


class CenterTarget(nn.Module):
    """The same map for all images: the mean map of training images, a buffer that checkpoints contain.

    Its gaze points are extracted from it. The buffer is zero until `set_map` is called or a checkpoint is loaded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mean_map: Tensor
        self.register_buffer("mean_map", torch.zeros(CENTER_SIDE, CENTER_SIDE))

    def set_map(self, mean_map: Tensor) -> None:
        """Set the map, float [M, M] of any size."""
        self.mean_map.copy_(resize_maps(mean_map[None], (CENTER_SIDE, CENTER_SIDE))[0])

    def forward(self, inputs: ModelInputs) -> Targets:
        """Raises ImageFailure (a ValueError) if the map has not been set."""
        images, size = len(inputs.clean), (inputs.clean.shape[2], inputs.clean.shape[3])
        return Targets(resize_maps(self.mean_map[None], size).expand(images, *size), [self._points] * images)

    @cached_property
    def _points(self) -> np.ndarray:
        grid = resize_maps(self.mean_map[None].cpu(), GAZE_GRID)[0]
        return gaze_points(grid.numpy(), GAZE_SIGMA)


class LowLevelTarget(nn.Module):
    """The spectral residual of each clean image, and the gaze points extracted from it. Reads no map of the batch."""

    def forward(self, inputs: ModelInputs) -> Targets:
        maps = spectral_residual(inputs.clean)
        points = batch_gaze_points(resize_maps(maps, GAZE_GRID), GAZE_SIGMA)
        return Targets(resize_maps(maps, (inputs.clean.shape[2], inputs.clean.shape[3])), points)


AttentionTarget = TeacherTarget | PermutedTarget | CenterTarget | LowLevelTarget


def draw_derangement(generator: np.random.Generator, length: int) -> np.ndarray:
    """Draw a permutation of `length` elements, 2 or more, that moves each of them; all such are equally likely."""
    if length < 2:
        raise ValueError(f"expected two elements or more to exchange, found {length}")
    while True:  # 2.7 attempts on average
        order = generator.permutation(length)
        if (order != np.arange(length)).all():
            return order
