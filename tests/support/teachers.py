"""Fast teachers without weights, for `--teacher tests.support.teachers:NAME`."""

import os
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GRID = (60, 80)
TEACHER_SECONDS = "TEACHER_SECONDS"  # environment variable: seconds per batch, for tests that interrupt a run
TEACHER_FAULT = "TEACHER_FAULT"  # environment variable: what the faulty teacher does wrong


class GradientTeacher(nn.Module):
    """Teacher with smooth maps that depend on the image: its coarse brightness times a Gaussian at the center."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(TEACHER_SECONDS, "0")))
        coarse = F.adaptive_avg_pool2d(images.mean(1, keepdim=True), (6, 8))
        brightness = F.interpolate(coarse, GRID, mode="bilinear")[:, 0]
        rows = torch.linspace(-1, 1, GRID[0], device=images.device)[:, None]
        columns = torch.linspace(-1, 1, GRID[1], device=images.device)[None]
        return (0.05 + brightness) ** 2 * torch.exp(-2 * (rows**2 + columns**2))


class NullTeacher(nn.Module):
    """Teacher with a constant Gaussian at the center, at no cost, so that only the job itself takes time."""

    def __init__(self) -> None:
        super().__init__()
        rows, columns = (torch.linspace(-1, 1, size) for size in GRID)
        self.register_buffer("gaussian", torch.exp(-20 * (rows[:, None] ** 2 + columns**2)))

    def forward(self, images: Tensor) -> Tensor:
        return self.gaussian.expand(len(images), *GRID)


class FaultyTeacher(GradientTeacher):
    """GradientTeacher with a fault that TEACHER_FAULT selects, so that its checksum is the same with and without it.

    At a black image it raises an error (`raise`), ends its process (`die`), hangs (`hang`), or runs out of GPU memory
    (`gpu`).
    """

    def forward(self, images: Tensor) -> Tensor:
        fault = os.environ.get(TEACHER_FAULT)
        if fault in ("raise", "die", "hang", "gpu") and images.amax() < 0.01:
            if fault == "die":
                os._exit(1)
            if fault == "hang":
                time.sleep(3600)
            if fault == "gpu":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            raise RuntimeError("this image is too dark")
        return super().forward(images)


def gradient_teacher() -> nn.Module:
    return GradientTeacher()


def null_teacher() -> nn.Module:
    return NullTeacher()


def faulty_teacher() -> nn.Module:
    """Fail in workers but not in the driver: with `absent` raise an error, with `fatal` end the process."""
    import ray  # slow to import, and most tests do not need it

    fault = os.environ.get(TEACHER_FAULT) if ray.is_initialized() else None
    if fault == "absent":
        raise FileNotFoundError("/home/me/weights.pt is not here")
    if fault == "fatal":
        os._exit(1)
    return FaultyTeacher()


def other_teacher() -> nn.Module:
    """A teacher with another checksum, for runs that must be refused."""
    return nn.Sequential(GradientTeacher(), nn.Identity())


def not_a_teacher() -> nn.Module:
    """A module that fails on images."""
    return nn.Linear(2, 2)
