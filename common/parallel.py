"""Work side by side: in threads with bounded memory, in processes with a line of progress."""

import functools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

from common.progress import progress_bar

SILENT = 2.0  # seconds until progress is worth a line
T = TypeVar("T")
R = TypeVar("R")


def decoding_threads(gpu: bool) -> int:
    """How many threads of a worker decode: many feed a GPU; beside a network on the CPU, two are enough."""
    return max(4, min(16, os.cpu_count() or 4)) if gpu else 2


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Map in threads, in the order of the items, with at most `ahead` results waiting to be taken."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def in_processes(
    function: Callable[..., R],
    *arguments: Sequence[Any],
    processes: int | None,
    unit: str,
    start: Callable[[], object] | None = None,
) -> Iterator[R]:
    """Map over arguments in their order, by default in a process a core; where one is enough it is this one.

    Each process calls `start` first, if there is one. `unit` names the items on the line of progress.
    """
    number = len(arguments[0])
    processes = min(processes or os.cpu_count() or 1, number)
    shown = functools.partial(progress_bar, total=number, unit=f" {unit}", delay=SILENT)
    if processes <= 1:
        if start:
            start()
        yield from shown(map(function, *arguments))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start) as pool:
        yield from shown(pool.map(function, *arguments))
