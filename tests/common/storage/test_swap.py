"""Tests of the exclusive exchange of a file in a local folder, among threads and processes."""

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.storage import LocalStorage
from tests.support.jobs import ROOT

PAUSE = 0.5  # seconds; much longer than an exchange that does not wait takes
SWAPPER = """
import sys
from pathlib import Path
from common.storage import LocalStorage

class PausedStorage(LocalStorage):
    def read(self, name):
        content = super().read(name)
        print("has read", content.decode(), flush=True)
        sys.stdin.readline()
        return content

storage = PausedStorage(Path(sys.argv[1]))
print("starts", flush=True)
print(storage.swap("manifest.json", b"old", sys.argv[2].encode()), flush=True)
"""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


@contextlib.contextmanager
def swapping(storage: LocalStorage, content: str) -> Iterator[subprocess.Popen[str]]:
    """Start a process that exchanges "old" for `content`, and pauses after it has read until it receives a line."""
    command = [sys.executable, "-c", SWAPPER, str(storage.root), content]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def test_swap_replaces_only_expected_content(storage: LocalStorage) -> None:
    assert storage.swap("manifest.json", None, b"1")
    assert not storage.swap("manifest.json", None, b"2")
    assert not storage.swap("manifest.json", b"other", b"2")
    assert storage.read("manifest.json") == b"1"
    assert storage.swap("manifest.json", b"1", b"2")
    assert storage.swap("manifest.json", b"1", b"2"), "the file already has the new content"
    assert storage.read("manifest.json") == b"2"


def test_process_that_swaps_waits_for_another_that_has_read_the_file(storage: LocalStorage) -> None:
    storage.put("manifest.json", b"old")
    with swapping(storage, "first") as first:
        assert [next_line(first), next_line(first)] == ["starts", "has read old"]
        with swapping(storage, "second") as second:
            assert next_line(second) == "starts"
            assert not select.select([second.stdout], [], [], PAUSE)[0], "both have read the old content"
            assert storage.read("manifest.json") == b"old"
            assert first.communicate("\n")[0] == "True\n"
            assert second.communicate("\n")[0] == "has read first\nFalse\n"
    assert storage.read("manifest.json") == b"first"
