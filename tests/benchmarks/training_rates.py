"""Rates of training on batches, for benchmarks."""

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

T = TypeVar("T")
WARM_UP = 5  # steps that are not timed


def measure_rate(train: Callable[[T], object], batches: Iterable[T], batch_size: int) -> float:
    """Train on the batches. Returns images per second, without the first WARM_UP steps."""
    start = 0.0
    steps = 0
    for step, batch in enumerate(batches):
        if step == WARM_UP:
            wait_for_device()
            start = time.perf_counter()
        train(batch)
        steps += step >= WARM_UP
    wait_for_device()
    return batch_size * steps / (time.perf_counter() - start)


def wait_for_device() -> None:
    """Wait until the GPU, if there is one, has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
