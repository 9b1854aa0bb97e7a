"""Work side by side: in threads with bounded memory, in processes with a line of progress."""

import functools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from common.errors import UserError
from common.progress import progress_bar

SILENT = 2.0  # seconds until progress is worth a line
T = TypeVar("T")
R = TypeVar("R")


def default_decoders(gpus: int) -> int:
    """How many threads or processes decode for one, on a machine that has so many GPUs for as many workers.

    Many feed a GPU; beside a network on the CPU, two are enough.
    """
    return max(4, min(16, (os.cpu_count() or 4) // gpus)) if gpus else 2


class Decoders(NamedTuple):
    """Who decodes: so many threads, or processes.

    Threads share Python's lock, which each operation takes and gives: more than a few keep each other waiting, and the
    thread that feeds a GPU.
    """

    number: int
    processes: bool

    def pool(self) -> Executor:
        """A new pool of them; what it is given must be such that it can be sent to a process."""
        if not self.processes:
            return ThreadPoolExecutor(self.number, initializer=_with_one_thread)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torchvision"])  # once for all of them
        return ProcessPoolExecutor(self.number, context, initializer=_as_a_process)


def decoder_result(future: "Future[R]") -> R:
    """What one of them has made, or raised. Raises UserError where it died."""
    try:
        return future.result()
    except BrokenExecutor:
        raise UserError(
            "a process that decodes samples died (out of memory, or of shared memory, of which a container has little "
            "unless it is given more: docker run --shm-size); ask for fewer --threads"
        ) from None


def _with_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _as_a_process() -> None:
    """Neither Ctrl-C, which every process of a terminal gets, nor the end of the program leaves anything behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_program, daemon=True).start()
    _with_one_thread()


def _end_with_the_program() -> None:
    program = multiprocessing.parent_process()
    assert program is not None
    program.join()
    os._exit(1)


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
