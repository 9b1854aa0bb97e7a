"""Shards of a data set in S3, kept on a local disk after they are first read."""

import contextlib
import hashlib
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from common.errors import describe_error

SUFFIX, UNFINISHED = ".tar", ".partial"
MAX_AGE_OF_UNFINISHED = 3600.0  # seconds after which a file that is being written belongs to a process that died


class ShardCache:
    """A folder of shards, which several ranks and runs may share.

    A file is named by the SHA-256 of its content, so that another data set, or a shard that has changed, is another
    file. When the files together exceed `size` bytes, those that were used longest ago are removed. If the disk cannot
    be written, reading continues from the source, and a line on standard error says so once.
    """

    def __init__(self, folder: Path, size: int | None) -> None:
        """Open a cache. Without a size, half of the disk's free space and of what the cache has already is used."""
        self.folder = folder
        if size is None:
            size = (_free_bytes(folder) + sum(used for _, used, _ in _list_files(folder, SUFFIX))) // 2
        self.size = size
        self._lock = threading.Lock()  # of the threads of a process; processes need none
        self._warned = False

    def read(self, checksum: str, fetch: Callable[[], bytes]) -> bytes:
        """Return the shard with this SHA-256, from the cache or else from `fetch`, whose result is stored.

        Files of the cache with other content are removed. What `fetch` returns is passed on also if its checksum is
        another, but not stored. Passes on the errors of `fetch`.
        """
        path = self.folder / f"{checksum}{SUFFIX}"
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == checksum:
                os.utime(path)  # marks it as used
                return content
            path.unlink()
        content = fetch()
        if len(content) <= self.size and hashlib.sha256(content).hexdigest() == checksum:
            self._store(path, content)
        return content

    def _store(self, path: Path, content: bytes) -> None:
        unfinished = path.with_suffix(f".{uuid.uuid4().hex}{UNFINISHED}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._make_room(len(content))
            try:
                unfinished.write_bytes(content)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            if not self._warned:
                self._warned = True
                print(
                    f"--cache: {self.folder} cannot be written ({describe_error(error)}); shards that it lacks are "
                    "read from the data set each time",
                    file=sys.stderr,
                )

    def _make_room(self, needed: int) -> None:
        """Remove shards that were used longest ago, and the unfinished files of processes that died."""
        for modified, _, path in _list_files(self.folder, UNFINISHED):
            if time.time() - modified > MAX_AGE_OF_UNFINISHED:
                path.unlink(missing_ok=True)
        shards = _list_files(self.folder, SUFFIX)
        total = sum(size for _, size, _ in shards)
        for _, size, path in sorted(shards):
            if total + needed <= self.size:
                break
            path.unlink(missing_ok=True)
            total -= size


def _list_files(folder: Path, suffix: str) -> list[tuple[float, int, Path]]:
    """Return time of last use, size and path of the files with a suffix."""
    files = []
    for path in folder.glob(f"*{suffix}"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed or renamed it
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    return files


def _free_bytes(folder: Path) -> int:
    """Return the free space of a folder that may not exist yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
