"""Writing a file whole or not at all, and where files are kept between runs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write, with the folders that it needs; it gets its name once it is on the disk.

    Whatever was there before stays until then, and for ever where the writing fails. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.partial")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def cache_folder() -> Path:
    """Where what was fetched or drawn once lies for later runs: imagenet-attn in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagenet-attn"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file likewise. Raises OSError."""
    with open_atomically(path) as file:
        file.write(content)
