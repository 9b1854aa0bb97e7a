"""Tests of the cache of shards that several processes share: ranks of a run, and processes that are killed."""

import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from common.parallel import Decoders
from common.storage.s3_client import get_client
from tests.support.data.datasets import make_dataset
from tests.support.faults import FaultProxy
from tests.support.ranks import run_ranks
from tests.support.s3_server import S3Server
from tests.support.stops import run_until_file_exceeds
from tests.support.training import make_stream
from trainer.data.augment import draw_augmentation
from trainer.data.dataset import open_dataset
from trainer.data.decoding import ViewSpec
from trainer.data.sampler import Sampler
from trainer.data.shard_cache import MAX_AGE_OF_UNFINISHED, ShardCache

SIZES, BATCH_SIZE = [7, 5, 9, 6], 6
STEPS = 4  # of an epoch
UNLIMITED = 10**12


def read_keys(location: str, cache: Path | None, epoch: int, rank: int, world_size: int) -> list[list[str]]:
    """Return the keys of a rank's samples in each step of an epoch."""
    data, views = open_dataset(location), (draw_augmentation, draw_augmentation)
    sampler = Sampler(data.sizes, BATCH_SIZE, 0)
    shards = ShardCache(cache, UNLIMITED) if cache else None
    spec = ViewSpec(32, views, None)
    stream = make_stream(data, sampler, spec, rank, world_size, Decoders(1, False), cache=shards)
    return [batch.keys for batch in stream.batches(epoch * STEPS, (epoch + 1) * STEPS)]


@pytest.mark.usefixtures("s3_environment")
def test_two_ranks_read_each_shard_from_s3_in_the_first_epoch_only(
    tmp_path: Path, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_dataset(tmp_path / "data", SIZES)
    for path in folder.iterdir():
        s3.client().upload_file(str(path), bucket, f"data/{path.name}")
    with FaultProxy(s3) as proxy:
        for name, value in proxy.environment().items():
            monkeypatch.setenv(name, value)
        get_client.cache_clear()
        for epoch in range(3):
            proxy.requests.clear()
            found = run_ranks(2, read_keys, f"s3://{bucket}/data", tmp_path / "cache", epoch)
            assert found == [read_keys(str(folder), None, epoch, rank, 2) for rank in range(2)]
            reads = [request.key for request in proxy.requests if request.key.endswith(".tar")]
            assert len(set(reads)) == (len(SIZES) if epoch == 0 else 0)
            assert len(reads) <= 2 * len(SIZES)  # both ranks may need a shard at the same time


def shard_content(index: int, size: int) -> tuple[str, bytes]:
    """Return the checksum and the content of a shard."""
    content = bytes([index]) * size
    return hashlib.sha256(content).hexdigest(), content


def read_many(folder: Path, rank: int, world_size: int) -> int:
    """Read twelve shards many times through a cache that has room for five; return how often the source was read."""
    cache, shards = ShardCache(folder, 550_000), [shard_content(index, 100_000) for index in range(12)]
    fetched = []
    for number in range(300):
        checksum, content = shards[number * (5 + 2 * rank) % 12 if number % 3 else number % 2]
        assert cache.read(checksum, lambda content=content: fetched.append(content) or content) == content
    return len(fetched)


def test_processes_that_store_and_remove_the_same_shards_read_them_undamaged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert all(12 < reads < 300 for reads in run_ranks(3, read_many, tmp_path))
    assert "cannot be written" not in capfd.readouterr().err
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 550_000 + 3 * 100_000
    assert all(path.stem == hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir())


def assert_usable(folder: Path, checksum: str, content: bytes) -> None:
    """Assert that the cache returns the shard, stores it if need be, and removes what was left behind after an hour."""
    fetched = []
    for _ in range(2):
        cache = ShardCache(folder, UNLIMITED)
        assert cache.read(checksum, lambda: fetched.append(content) or content) == content
    assert len(fetched) <= 1
    past = time.time() - MAX_AGE_OF_UNFINISHED - 60
    for path in folder.glob("*.partial"):
        os.utime(path, (past, past))
    other, other_content = shard_content(99, 10)
    assert ShardCache(folder, UNLIMITED).read(other, lambda: other_content) == other_content
    assert {path.name for path in folder.iterdir()} == {f"{checksum}.tar", f"{other}.tar"}


def test_process_killed_in_the_middle_of_a_shard_leaves_a_usable_cache(tmp_path: Path) -> None:
    checksum, content = shard_content(0, 100_000)
    run_until_file_exceeds(60_000, lambda: ShardCache(tmp_path, UNLIMITED).read(checksum, lambda: content))
    [unfinished] = tmp_path.iterdir()
    assert (unfinished.suffix, unfinished.stat().st_size) == (".partial", 60_000)
    assert_usable(tmp_path, checksum, content)


def test_rank_killed_while_another_uses_the_cache_leaves_a_usable_cache(tmp_path: Path) -> None:
    """The first process stores a large shard over and over until SIGKILL; this one reads it meanwhile."""
    checksum, content = shard_content(0, 20_000_000)

    def store_repeatedly() -> None:
        while True:
            ShardCache(tmp_path, UNLIMITED).read(checksum, lambda: content)
            (tmp_path / f"{checksum}.tar").unlink(missing_ok=True)

    process = multiprocessing.get_context("fork").Process(target=store_repeatedly, daemon=True)
    process.start()
    for _ in range(20):
        assert ShardCache(tmp_path, UNLIMITED).read(checksum, lambda: content) == content
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.partial")):
        assert time.monotonic() < deadline
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert_usable(tmp_path, checksum, content)
