"""Teachers of the tests' own, for `--teacher tests.support.teachers:NAME`: quick, without weights."""

import os
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = (60, 80)
SECONDS = "TEACHER_SECONDS"  # environment variable: how long a batch takes, for tests that stop a run in its middle
FAULT = "TEACHER_FAULT"  # environment variable: what goes wrong with the faulty teacher


class GradientTeacher(nn.Module):
    """Smooth maps that depend on the picture: its coarse brightness, under a hill at the centre."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(SECONDS, "0")))
        coarse = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), (6, 8))
        brightness = F.interpolate(coarse, GRID, mode="bilinear")[:, 0]
        rows = torch.linspace(-1, 1, GRID[0], device=images.device)[:, None]
        columns = torch.linspace(-1, 1, GRID[1], device=images.device)[None]
        return (0.05 + brightness) ** 2 * torch.exp(-2 * (rows**2 + columns**2))


class NullTeacher(nn.Module):
    """The same hill at the centre for every picture, at no cost: what is left is the job's own."""

    def __init__(self) -> None:
        super().__init__()
        rows, columns = (torch.linspace(-1, 1, size) for size in GRID)
        self.register_buffer("hill", torch.exp(-20 * (rows[:, None] ** 2 + columns**2)))

    def forward(self, images: Tensor) -> Tensor:
        return self.hill.expand(len(images), *GRID)


class FaultyTeacher(GradientTeacher):
    """A sound one but where the environment tells a fault, so that it keeps its identity.

    A black picture makes it `raise`, or `die` with its process, or fills the `gpu`.
    """

    def forward(self, images: Tensor) -> Tensor:
        fault = os.environ.get(FAULT)
        if fault in ("raise", "die", "gpu") and images.amax() < 0.01:
            if fault == "die":
                os._exit(1)
            if fault == "gpu":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            raise RuntimeError("this picture is too dark for me")
        return super().forward(images)


def gradient_teacher() -> nn.Module:
    return GradientTeacher()


def null_teacher() -> nn.Module:
    return NullTeacher()


def faulty_teacher() -> nn.Module:
    """Workers cannot make it where the fault is `absent`, and die of it where it is `fatal`; the job itself can."""
    import ray  # most tests need none

    fault = os.environ.get(FAULT) if ray.is_initialized() else None
    if fault == "absent":
        raise FileNotFoundError("/home/me/weights.pt is not here")
    if fault == "fatal":
        os._exit(1)
    return FaultyTeacher()


def other_teacher() -> nn.Module:
    """Another one, for runs that must be refused."""
    return nn.Sequential(GradientTeacher(), nn.Identity())


def not_a_teacher() -> nn.Module:
    """A module that fails on a picture."""
    return nn.Linear(2, 2)
