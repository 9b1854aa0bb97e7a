"""Tests that an interrupted write leaves the old file whole: after an error, and after the death of the process."""

import contextlib
import json
import multiprocessing
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.page import Html, write_page
from common.storage import LocalStorage
from common.storage.files import open_atomically, write_atomically
from common.storage.run_folder import RunFolder
from common.training import METRICS_FILE, MetricLog, save_checkpoint
from tests.support.jobs import ROOT

NAME = METRICS_FILE  # of the file that every writer replaces
OLD = "".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(10_000))  # 300 KB
NEW = "new content " * 30_000
LIMIT = 64 << 10  # bytes after which a write is interrupted
WRITERS: dict[str, Callable[[Path], object]] = {
    "write_atomically": lambda folder: write_atomically(folder / NAME, NEW.encode()),
    "save_checkpoint": lambda folder: save_checkpoint(folder / NAME, {"weights": torch.zeros(100_000)}),
    "write_page": lambda folder: write_page(folder / NAME, Html(NEW)),
    "RunFolder.write": lambda folder: RunFolder(str(folder)).write(NAME, NEW),
    "MetricLog": lambda folder: MetricLog(folder, step=9_000),  # removes the entries after this step
    "LocalStorage.replace": lambda folder: LocalStorage(folder).replace(NAME, NEW.encode()),
}
WRITER = """
import sys
from pathlib import Path
from common.storage.files import open_atomically

with open_atomically(Path(sys.argv[1])) as file:
    file.write(b"half of the new content")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with old content, alone in its folder."""
    path = tmp_path / "folder" / NAME
    path.parent.mkdir()
    path.write_text(OLD)
    return path


@contextlib.contextmanager
def limited_file_size(size: int) -> Iterator[None]:
    """Let the kernel interrupt every write of this process that goes beyond `size` bytes of a file.

    What lies within the limit is written. Then write(2) raises OSError, or the kernel ends the process if SIGXFSZ has
    its default action.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_until_killed(writer: str, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with limited_file_size(LIMIT):
        WRITERS[writer](folder)


@pytest.mark.parametrize("writer", WRITERS)
def test_writer_replaces_the_old_content(writer: str, path: Path) -> None:
    WRITERS[writer](path.parent)
    assert path.read_bytes() != OLD.encode()
    assert path.stat().st_size > LIMIT, "this writer could not be interrupted by the limit"


@pytest.mark.parametrize("writer", WRITERS)
def test_failed_write_leaves_the_old_content_and_no_other_file(writer: str, path: Path) -> None:
    with limited_file_size(LIMIT), pytest.raises((OSError, UserError)):
        WRITERS[writer](path.parent)
    assert path.read_text() == OLD
    assert [file for file in path.parent.rglob("*") if file.is_file()] == [path]


@pytest.mark.parametrize("writer", WRITERS)
def test_process_that_dies_within_a_write_leaves_the_old_content(writer: str, path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=write_until_killed, args=(writer, path.parent))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGXFSZ
    assert path.read_text() == OLD
    unfinished = [file for file in path.parent.rglob("*") if file.is_file() and file != path]
    assert [file.stat().st_size for file in unfinished] == [LIMIT], "the process died before or after the write"


def test_killed_process_leaves_the_old_content_and_the_next_write_succeeds(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == OLD
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def write_half(path: Path, error: type[BaseException]) -> None:
    with open_atomically(path) as file:
        file.write(b"half of the new content")
        file.flush()
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_error_in_the_block_leaves_the_old_content_and_no_other_file(error: type[BaseException], path: Path) -> None:
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_the_old_content_until_the_block_ends(path: Path) -> None:
    with open_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == OLD
    assert path.read_bytes() == b"new"


def test_missing_folders_are_created(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
