"""Tests of the cache of shards on a local disk."""

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer.data.shard_cache import MAX_AGE_OF_UNFINISHED, ShardCache


class Source:
    """Shards in a store that counts how often each is read."""

    def __init__(self, number: int = 6, size: int = 100) -> None:
        contents = [bytes([index]) * size for index in range(number)]
        self.contents = {hashlib.sha256(content).hexdigest(): content for content in contents}
        self.names = list(self.contents)
        self.reads: list[str] = []
        self.lock = threading.Lock()

    def read(self, cache: ShardCache, index: int) -> bytes:
        name = self.names[index]

        def fetch() -> bytes:
            with self.lock:
                self.reads.append(name)
            return self.contents[name]

        return cache.read(name, fetch)


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_shard_is_fetched_once(tmp_path: Path) -> None:
    source, cache = Source(), ShardCache(tmp_path / "cache", 10_000)
    for _ in range(3):
        for index in range(6):
            assert source.read(cache, index) == source.contents[source.names[index]]
    assert sorted(source.reads) == sorted(source.names)
    assert source.read(ShardCache(tmp_path / "cache", 10_000), 2) == source.contents[source.names[2]]
    assert len(source.reads) == 6
    assert stored(tmp_path / "cache") == sorted(f"{name}.tar" for name in source.names)


def test_shards_used_longest_ago_are_removed_first(tmp_path: Path) -> None:
    source, cache = Source(), ShardCache(tmp_path, 350)
    for age, index in enumerate((0, 1, 2)):
        source.read(cache, index)
        os.utime(tmp_path / f"{source.names[index]}.tar", times=(0, 1000 + age))
    source.read(cache, 0)  # now used last
    source.read(cache, 3)
    assert stored(tmp_path) == sorted(f"{source.names[index]}.tar" for index in (0, 2, 3))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 350


def test_shard_larger_than_the_cache_is_not_stored(tmp_path: Path) -> None:
    source, cache = Source(), ShardCache(tmp_path / "cache", 99)
    assert source.read(cache, 0)
    assert source.read(cache, 0)
    assert len(source.reads) == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", [b"", b"x" * 100])
def test_damaged_file_is_replaced(damage: bytes, tmp_path: Path) -> None:
    source, cache = Source(), ShardCache(tmp_path, 10_000)
    source.read(cache, 0)
    path = tmp_path / f"{source.names[0]}.tar"
    path.write_bytes(damage)
    assert source.read(cache, 0) == source.contents[source.names[0]]
    assert path.read_bytes() == source.contents[source.names[0]]
    assert len(source.reads) == 2


def test_content_with_another_checksum_is_passed_on_but_not_stored(tmp_path: Path) -> None:
    assert ShardCache(tmp_path, 1000).read("0" * 64, lambda: b"damaged") == b"damaged"
    assert stored(tmp_path) == []


def test_disk_that_cannot_be_written_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    source, cache = Source(), ShardCache(tmp_path / "file", 10_000)
    for index in range(3):
        assert source.read(cache, index) == source.contents[source.names[index]]
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "cannot be written" in errors


def test_full_disk_leaves_no_part_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_half(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    source, cache = Source(), ShardCache(tmp_path, 10_000)
    monkeypatch.setattr(Path, "write_bytes", write_half)
    assert source.read(cache, 0) == source.contents[source.names[0]]
    assert stored(tmp_path) == []


def test_files_of_writers_that_died_are_removed_and_those_of_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.1.partial").write_bytes(b"1")
    (tmp_path / "b.2.partial").write_bytes(b"2")
    past = time.time() - MAX_AGE_OF_UNFINISHED - 60
    os.utime(tmp_path / "a.1.partial", times=(past, past))
    source, cache = Source(), ShardCache(tmp_path, 10_000)
    source.read(cache, 0)
    assert stored(tmp_path) == sorted([f"{source.names[0]}.tar", "b.2.partial"])


def test_many_threads_and_caches_share_a_folder(tmp_path: Path) -> None:
    source = Source(number=12)
    caches = [ShardCache(tmp_path, 500) for _ in range(4)]

    def read(number: int) -> bool:
        index = number * 7 % 12
        return source.read(caches[number % 4], index) == source.contents[source.names[index]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))
    assert not [name for name in stored(tmp_path) if name.endswith(".partial")]
