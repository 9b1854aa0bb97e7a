"""Storage in a local folder: complete files are hard-linked to their names from a folder of unfinished files."""

import contextlib
import fcntl
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError
from common.storage.files import make_folder, sync_folder
from common.storage.objects import ObjectState

PARTIAL = ".partial"  # folder of unfinished files, of running jobs or of killed ones


class LocalStorage:
    """A folder on a local or shared POSIX file system. `common.storage.Storage` documents the methods.

    Files are written under `.partial/`, flushed to disk and hard-linked to their name, because linking never overwrites
    a file. A writer locks its unfinished file, so that `sweep` can distinguish the files of live and dead writers.
    """

    largest_object = sys.maxsize

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def exists(self, name: str) -> bool:
        return (self.root / name).exists()

    def stat(self, name: str) -> ObjectState:
        status = (self.root / name).stat()
        return ObjectState(status.st_size, f"{status.st_ino} {status.st_mtime_ns}")

    def list(self, folder: str = "") -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(f"{folder}/{entry.name}".lstrip("/") for entry in entries if entry.is_file())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def list_sizes(self) -> dict[str, int]:
        try:
            with os.scandir(self.root) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def find_file(self, is_wanted: Callable[[str], bool]) -> str | None:
        for folder, subfolders, files in os.walk(self.root):
            path = Path(folder)
            if path == self.root:
                subfolders[:], files = filter(is_wanted, subfolders), list(filter(is_wanted, files))
            if files:
                return (path / min(files)).relative_to(self.root).as_posix()
            subfolders.sort()
        return None

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def read_range(self, name: str, start: int, size: int) -> bytes:
        with self.open(name) as file:
            file.seek(start)
            return file.read(size)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[BinaryIO]:
        path, file = self._create_locked()
        try:
            with file:
                yield file
        finally:
            path.unlink(missing_ok=True)

    def put_file(self, name: str, file: BinaryIO) -> bool:
        file.flush()
        os.fsync(file.fileno())
        target = self.root / name
        make_folder(target.parent)
        try:
            os.link(file.name, target)
        except FileExistsError:
            return False
        sync_folder(target.parent)
        return True

    def put(self, name: str, content: bytes) -> bool:
        with self.scratch() as file:
            file.write(content)
            return self.put_file(name, file)

    def replace(self, name: str, content: bytes) -> None:
        with self.scratch() as file:
            file.write(content)
            self.replace_file(name, file)

    def replace_file(self, name: str, file: BinaryIO) -> None:
        target = self.root / name
        file.flush()
        os.fsync(file.fileno())
        make_folder(target.parent)
        os.replace(file.name, target)
        sync_folder(target.parent)

    def swap(self, name: str, expected: bytes | None, content: bytes) -> bool:
        if expected is None and self.put(name, content):
            return True
        with contextlib.suppress(FileNotFoundError), _lock(self.root / name):
            found = self.read(name)
            if found == expected:
                self.replace(name, content)
            return found in (expected, content)
        return False

    def check_writable(self) -> None:
        """Check that files and hard links can be created in the folder. Raises UserError."""
        try:
            make_folder(self.root)
            with self.scratch() as file:
                probe = f"{PARTIAL}/{uuid.uuid4().hex}.probe"
                self.put_file(probe, file)
                (self.root / probe).unlink()
        except OSError as error:
            raise UserError(
                f"cannot write to {self.root}: {error.strerror}; "
                "expected a new or writable folder on a file system with hard links"
            ) from None

    def sweep(self) -> None:
        """Remove the unfinished files of writers that died, which are those that nobody has locked."""
        folder = self.root / PARTIAL
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            with contextlib.suppress(OSError), path.open("r+b") as file:  # NFS locks only files open for writing
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    scratch_bytes = free_bytes  # scratch files are in the same file system, so that they can be linked

    def _create_locked(self) -> tuple[Path, BinaryIO]:
        """Create an unfinished file and lock it. Return its path and the open file."""
        while True:
            path = self.root / PARTIAL / uuid.uuid4().hex
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                file = path.open("xb")
            except FileNotFoundError:  # another process's sweep has just removed the folder
                continue
            with contextlib.suppress(OSError):  # without locks in the file system, `sweep` cannot remove files either
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return path, file
            file.close()  # another process's sweep removed the file before it was locked


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which others may have replaced while this process waited for it.

    Without effect on a file system that has no locks. Raises FileNotFoundError.
    """
    while True:
        with path.open("r+b") as file:  # NFS locks only files open for writing
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return
