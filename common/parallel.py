"""Parallel work: the cores that this process may use, ordered maps over threads and processes, and decoder pools."""

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

from common.errors import UserError
from common.progress import PROGRESS_DELAY, progress_bar

# environment variables with the number of threads of NumPy's linear algebra and of PyTorch, read when they are imported
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PROCESS_CGROUPS, CGROUP_MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """Return the number of CPU cores that this process may use, at least 1.

    Unlike `os.cpu_count`, respects the process's CPU affinity (taskset, Slurm) and, rounded up, the CPU time that its
    cgroups allow (containers).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _read_cpu_quota())))


def default_decoders(gpus: int) -> int:
    """Return the default number of decoder threads (without GPUs) or processes (with GPUs) per worker.

    With GPUs, assumes that each of the machine's `gpus` has one worker and that the workers share the CPU cores.
    Without GPUs, two threads decode faster than the network trains.
    """
    return max(4, min(16, available_cores() // gpus)) if gpus else 2


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
        context.set_forkserver_preload(["torchcodec"])  # import it once, not in every process
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
    yield from _results_in_order(pending)


def in_processes(
    function: Callable[..., R],
    *arguments: Sequence[Any],
    processes: int | None,
    unit: str,
    start: Callable[[], object] | None = None,
) -> Iterator[R]:
    """Map over sequences of arguments in order, in several processes and with a progress bar.

    Each process uses one thread for linear algebra, because the processes use all cores already.

    Raises UserError if a process dies.

    Args:
        function: called with one element of each sequence.
        arguments: sequences of equal length.
        processes: maximum number of processes, by default one per available core. If it is 1, the calling process does
            the work.
        unit: plural noun for the items, shown in the progress bar.
        start: called once in each process before its first item.
    """
    total = len(arguments[0])
    processes = min(processes or available_cores(), total)
    with_progress = functools.partial(progress_bar, total=total, unit=f" {unit}", delay=PROGRESS_DELAY)
    if processes <= 1:
        if start:
            start()
        yield from with_progress(map(function, *arguments))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _set_start, (start,)) as pool:
        with _one_thread_per_process():
            pending = deque(pool.submit(_start_and_call, function, *items) for items in zip(*arguments, strict=True))
        try:
            yield from with_progress(_results_in_order(pending))
        except KeyboardInterrupt:
            # the pool would wait for their current items; it fails if any of its items is cancelled (Python 3.11)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BrokenExecutor:
            raise UserError(
                "a process ended unexpectedly (out of memory?); run the same command again, with fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_start: Callable[[], object] | None = None  # what a process of `in_processes` must call before its first item


def _set_start(start: Callable[[], object] | None) -> None:
    global _start
    _start = start


def _start_and_call(function: Callable[..., R], *arguments: Any) -> R:
    """Call a function in a process of `in_processes`, whose start is part of the first call, so that it may raise."""
    global _start
    if _start:
        _start()
        _start = None
    return function(*arguments)


def _results_in_order(pending: "deque[Future[R]]") -> Iterator[R]:
    while pending:
        yield pending.popleft().result()


@contextlib.contextmanager
def _one_thread_per_process() -> Iterator[None]:
    """Set the environment so that processes started in the `with` block use one thread for linear algebra."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _read_cpu_quota() -> float:
    """Return the CPU time that this process's cgroups (version 1 or 2) allow, in cores; infinity if it is unlimited."""
    quotas = [math.inf]
    with contextlib.suppress(OSError):  # not Linux
        for line in PROCESS_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            mount = CGROUP_MOUNT / "cpu" if controllers else CGROUP_MOUNT
            # a limit of a group above is one too; in a container, the path may be that of the host, absent here
            for group in (PurePosixPath(path), *PurePosixPath(path).parents):
                quotas.append(_read_group_quota(mount / str(group).lstrip("/")))
    return min(quotas)


def _read_group_quota(group: Path) -> float:
    """Return the CPU time that a single cgroup allows, in cores; infinity if it has no limit or does not exist."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # the value of an unlimited group is "max"
            quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
            return quota / period if quota > 0 else math.inf
    return math.inf


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
