"""Atomic writes of local files, and the folder of files that are cached between runs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name when the `with` block ends and its content is on the disk.

    The name survives a power failure, too. Missing folders are created. If the block raises, an earlier file at this
    path is unchanged. Raises OSError.
    """
    make_folder(path.parent)
    unfinished = path.with_name(f"{path.name}.partial")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that readers see its old or its new content, never a part. Raises OSError."""
    with open_atomically(path) as file:
        file.write(content)


def make_folder(folder: Path) -> None:
    """Create a folder and those that contain it, if they are missing, and flush their names to disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a new name in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    """Return the folder for files worth reusing in later runs: `imagenet-attn` in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagenet-attn"
