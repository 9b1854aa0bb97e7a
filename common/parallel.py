"""Parallel work: a bounded, ordered map over threads, a map over processes with a progress bar, and decoder pools."""

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

PROGRESS_DELAY = 2.0  # seconds before `in_processes` shows a progress bar, so that quick work shows none
T = TypeVar("T")
R = TypeVar("R")


def default_decoders(gpus: int) -> int:
    """Return the default number of decoder threads (without GPUs) or processes (with GPUs) per worker.

    With GPUs, assumes that each of the machine's `gpus` has one worker and that the workers share the CPU cores.
    Without GPUs, two threads decode faster than the network trains.
    """
    return max(4, min(16, (os.cpu_count() or 4) // gpus)) if gpus else 2


class Decoders(NamedTuple):
    """The number of threads, or processes, that decode samples for a worker.

    Decoding consists of short operations that each take and release the interpreter lock, so more than a few threads
    block each other and the thread that feeds a GPU. Processes do not.
    """

    number: int
    processes: bool

    def pool(self) -> Executor:
        """Create a pool of these threads or processes. For processes, functions and arguments must be picklable."""
        if not self.processes:
            return ThreadPoolExecutor(self.number, initializer=_use_one_torch_thread)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torchvision"])  # import it once, not in every process
        return ProcessPoolExecutor(self.number, context, initializer=_initialize_decoder_process)


def decoder_result(future: "Future[R]") -> R:
    """Return a decoder's result, or raise its exception. Raises UserError if its process died."""
    try:
        return future.result()
    except BrokenExecutor:
        raise UserError(
            "a process that decodes samples died (probably out of memory or shared memory); ask for fewer --threads, "
            "or give the container more shared memory (docker run --shm-size)"
        ) from None


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield `function(item)` in the order of the items, computed in threads.

    At most `ahead` items are submitted before their results are yielded.
    """
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def in_processes(
    function: Callable[..., R],
    *arguments: Sequence[Any],
    processes: int | None,
    unit: str,
    start: Callable[[], object] | None = None,
) -> Iterator[R]:
    """Map over sequences of arguments in order, in several processes and with a progress bar.

    Args:
        function: called with one element of each sequence.
        arguments: sequences of equal length.
        processes: maximum number of processes, by default one per CPU core. If it is 1, the calling process does the
            work.
        unit: plural noun for the items, shown in the progress bar.
        start: called once in each process before its first item.
    """
    total = len(arguments[0])
    processes = min(processes or os.cpu_count() or 1, total)
    with_progress = functools.partial(progress_bar, total=total, unit=f" {unit}", delay=PROGRESS_DELAY)
    if processes <= 1:
        if start:
            start()
        yield from with_progress(map(function, *arguments))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start) as pool:
        yield from with_progress(pool.map(function, *arguments))


def _use_one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _initialize_decoder_process() -> None:
    """Ignore Ctrl-C, which a terminal sends to every process of a program, and exit when the main process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_main_process, daemon=True).start()
    _use_one_torch_thread()


def _exit_with_main_process() -> None:
    main_process = multiprocessing.parent_process()
    assert main_process is not None
    main_process.join()
    os._exit(1)
