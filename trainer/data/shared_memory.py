"""Memory that the ranks of a machine share, and how much memory a machine has left."""

import contextlib
import fcntl
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from common.storage.files import write_atomically

SHARED_MEMORY = Path("/dev/shm")  # a file system in memory
MEMORY_INFO = Path("/proc/meminfo")
CGROUP_MEMORY = Path("/sys/fs/cgroup")  # of a container: its own limit and use
CONTENT, DESCRIPTION, LOCK = "content", "description", "lock"

SHARED = "shared memory (/dev/shm; in a container: docker run --shm-size)"  # for messages

Allocate = Callable[[int], np.ndarray]  # returns memory of a size in bytes, uint8


def available_memory() -> int:
    """Return the bytes of memory that this process may still use, as the kernel and its container's limit allow."""
    available = []
    with contextlib.suppress(OSError):  # not Linux
        for line in MEMORY_INFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        limit = int((CGROUP_MEMORY / "memory.max").read_text())
        available.append(limit - int((CGROUP_MEMORY / "memory.current").read_text()))
    return max(min(available, default=0), 0)


def available_shared_memory() -> int:
    """Return the bytes of memory that processes may still share. Containers often have little of it."""
    return min(available_memory(), shutil.disk_usage(_root()).free)


def fill_once(name: str, fill: Callable[[Allocate, int], bytes]) -> tuple[bytes, np.ndarray]:
    """Let one process of this machine fill memory, which all processes that call this with the same name share.

    Args:
        name: names the memory on this machine.
        fill: gets a function that allocates the memory and the bytes that are available. Returns a description of what
            it has written. If it raises, the next process that waits calls it again.

    Returns the description and the memory; changes of it are private to the process. The memory is freed when no
    process uses it any more, after `remove_name`, which every process may call once all of them have it.
    """
    folder = _folder(name)
    content = folder / CONTENT
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / LOCK):
        if not (folder / DESCRIPTION).exists():
            try:
                allocate = functools.partial(_map_new_file, content)
                description = fill(allocate, available_shared_memory())
            except BaseException:
                content.unlink(missing_ok=True)
                raise
            write_atomically(folder / DESCRIPTION, description)
        return (folder / DESCRIPTION).read_bytes(), np.memmap(content, np.uint8, "c")  # PyTorch wants it writable


def remove_name(name: str) -> None:
    """Remove the files of shared memory; the memory itself stays while processes use it."""
    shutil.rmtree(_folder(name), ignore_errors=True)


def _root() -> Path:
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())


def _folder(name: str) -> Path:
    return _root() / f"imagenet-attn-{name}"


def _map_new_file(path: Path, size: int) -> np.ndarray:
    return np.memmap(path, np.uint8, "w+", shape=max(size, 1))  # a file of no bytes cannot be mapped


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is inside such a block. The lock of a process that dies is released."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
