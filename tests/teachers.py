"""Teachers of the tests' own, for `--teacher tests.teachers:NAME`: quick, without weights, and the same everywhere."""

import os
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = (60, 80)
SECONDS = "TEACHER_SECONDS"  # environment variable: how long a batch takes, for tests that stop a run in its middle


class GradientTeacher(nn.Module):
    """Smooth maps that depend on the picture: its coarse brightness, under a hill at the centre."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(SECONDS, "0")))
        coarse = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), (6, 8))
        brightness = F.interpolate(coarse, GRID, mode="bilinear")[:, 0]
        rows = torch.linspace(-1, 1, GRID[0], device=images.device)[:, None]
        columns = torch.linspace(-1, 1, GRID[1], device=images.device)[None]
        return (0.05 + brightness) ** 2 * torch.exp(-2 * (rows**2 + columns**2))


def gradient_teacher() -> nn.Module:
    return GradientTeacher()


def other_teacher() -> nn.Module:
    """Another one, for runs that must be refused."""
    return nn.Sequential(GradientTeacher(), nn.Identity())


def not_a_teacher() -> nn.Module:
    """A module that fails on a picture."""
    return nn.Linear(2, 2)
