"""Tests of the order in which files are flushed to the disk and named, on which they survive a power failure."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from common.storage import LocalStorage
from common.storage.files import open_atomically, write_atomically

CONTENT = b"little enough to stay in a buffer"


class Operation(NamedTuple):
    """A system call: "sync" flushes a file or folder to the disk, "name" gives a file its name."""

    call: str
    inode: int
    size: int | None  # bytes of the file at that time; None for a folder


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[Operation]:
    """Record the calls that flush or name a file, after they were really made."""
    recorded: list[Operation] = []

    def record(call: str, status: os.stat_result) -> None:
        recorded.append(Operation(call, status.st_ino, status.st_size if stat.S_ISREG(status.st_mode) else None))

    def record_sync(sync: Callable[[int], None]) -> Callable[[Any], None]:
        def wrapper(file: Any) -> None:
            sync(file)
            record("sync", os.fstat(file if isinstance(file, int) else file.fileno()))

        return wrapper

    def record_name(name: Callable[..., None]) -> Callable[..., None]:
        def wrapper(source: Any, target: Any, **options: Any) -> None:
            name(source, target, **options)
            record("name", os.stat(target))

        return wrapper

    for sync in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, sync, record_sync(getattr(os, sync)))
    for name in ("link", "replace", "rename"):
        monkeypatch.setattr(os, name, record_name(getattr(os, name)))
    return recorded


def put_file(storage: LocalStorage, name: str) -> None:
    with storage.scratch() as file:
        file.write(CONTENT)
        storage.put_file(name, file)


def open_and_write(path: Path) -> None:
    with open_atomically(path) as file:
        file.write(CONTENT)


def creation(folder: Path, above: Path) -> list[Operation]:
    """Return the expected operations for a new folder in `above`; none if they are the same folder."""
    return [] if folder == above else [Operation("sync", above.stat().st_ino, None)]


def writing(path: Path) -> list[Operation]:
    """Return the expected operations for a file: it is flushed, gets its name, and then its folder is flushed."""
    file, folder = path.stat().st_ino, path.parent.stat().st_ino
    size = len(CONTENT)
    return [Operation("sync", file, size), Operation("name", file, size), Operation("sync", folder, None)]


@pytest.mark.parametrize(
    "write",
    [
        put_file,
        lambda storage, name: storage.put(name, CONTENT),
        lambda storage, name: storage.replace(name, CONTENT),
        lambda storage, name: storage.swap(name, None, CONTENT),
    ],
    ids=["put_file", "put", "replace", "swap"],
)
@pytest.mark.parametrize("name", ["manifest.json", "records/train-000000.json"])
def test_storage_flushes_the_file_before_it_gets_its_name_and_then_the_folder(
    write: Callable[[LocalStorage, str], None], name: str, operations: list[Operation], tmp_path: Path
) -> None:
    path = tmp_path / name
    write(LocalStorage(tmp_path), name)
    flushed, *named = writing(path)
    assert operations == [flushed, *creation(path.parent, tmp_path), *named]


@pytest.mark.parametrize(
    "write", [open_and_write, lambda path: write_atomically(path, CONTENT)], ids=["open_atomically", "write_atomically"]
)
@pytest.mark.parametrize("name", ["last", "checkpoints/last"])
def test_file_and_folder_are_flushed_when_a_file_is_written_atomically(
    write: Callable[[Path], None], name: str, operations: list[Operation], tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    assert operations == [*creation(path.parent, tmp_path), *writing(path)]
    operations.clear()
    write(path)
    assert operations == writing(path)
