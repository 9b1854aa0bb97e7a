"""Tests that samples decoded in memory give the batches of samples that are decoded in every epoch."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.launch import Rank
from tests.support.data.datasets import make_dataset, overwrite_member
from tests.support.ranks import run_ranks
from tests.support.training import CPU, make_stream
from trainer.data.augment import draw_augmentation
from trainer.data.dataset import open_dataset
from trainer.data.decoding import Batch, DecodedSample, ViewSpec
from trainer.data.device_feed import DeviceFeed
from trainer.data.memory_cache import fill_memory, load_decoded
from trainer.data.sampler import Sampler
from trainer.data.shard_reader import ShardReader
from trainer.data.shared_memory import SHARED, SHARED_MEMORY

SIZES = [7, 5, 9, 6]
VIEWS = (draw_augmentation, draw_augmentation)


def read_batches(folder: Path, cached: bool, skip_damaged: bool = False, on_device: bool = False) -> list[Batch]:
    data = open_dataset(str(folder))
    spec = ViewSpec(32, VIEWS, data.classes)
    options: dict[str, Any] = {}
    if cached:
        shards = load_decoded(data, ShardReader(data, skip_damaged).read, Rank(0, 1, CPU), "test")
        options["read_shard"] = shards.__getitem__
    if on_device:
        options["feed"] = DeviceFeed(spec, CPU, pytest.fail)
    stream = make_stream(data, Sampler(data.sizes, 6, 0), spec, skip_damaged=skip_damaged, **options)
    return list(stream.batches(0, 8))


def assert_same(found: list[Batch], expected: list[Batch], tolerance: int = 0) -> None:
    for batch, other in zip(found, expected, strict=True):
        assert (batch.keys, batch.skipped) == (other.keys, other.skipped)
        for name in ("views", "clean", "augmentation", "attention", "labels"):
            one, two = getattr(batch, name), getattr(other, name)
            assert (one.double() - two.double()).abs().max() <= tolerance
        assert all((points == same).all() for points, same in zip(batch.gaze, other.gaze, strict=True))


def test_batches_are_those_of_the_shards(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path, SIZES)
    expected = read_batches(folder, cached=False)
    assert_same(read_batches(folder, cached=True), expected)
    assert_same(read_batches(folder, cached=True, on_device=True), expected, tolerance=2)


def damage(folder: Path) -> Path:
    overwrite_member(folder, "train-000001.tar", "000000008", "jpg")
    overwrite_member(folder, "train-000001.tar", "000000009", "gaze.npy")
    overwrite_member(folder, "train-000002.tar", "000000013", "cls", b"9")
    return folder


def test_damaged_samples_are_reported_when_they_are_used(tmp_path: Path) -> None:
    folder = damage(make_dataset(tmp_path, SIZES))
    messages = []
    for cached in (True, False):
        with pytest.raises(UserError, match="cannot be read") as error:
            read_batches(folder, cached)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_damaged_samples_and_shards_are_replaced_as_without_a_cache(tmp_path: Path) -> None:
    folder = damage(make_dataset(tmp_path, SIZES))
    path = folder / "train-000003.tar"
    path.write_bytes(path.read_bytes()[:9000])
    expected = read_batches(folder, cached=False, skip_damaged=True)
    assert sum(batch.skipped for batch in expected) > 4
    assert_same(read_batches(folder, cached=True, skip_damaged=True), expected)
    assert_same(read_batches(folder, cached=True, skip_damaged=True, on_device=True), expected, tolerance=2)


def test_too_little_memory_is_refused_before_any_is_allocated(tmp_path: Path) -> None:
    data = open_dataset(str(make_dataset(tmp_path, SIZES)))
    size = sum(SIZES) * (3 * 64 * 48 + 32 * 32)  # besides the gaze points
    with pytest.raises(UserError, match=r"--cache memory: .* about 2[78]\d KB, and 80% of the 27\d KB of available"):
        fill_memory(data, ShardReader(data).read, pytest.fail, size)
    with pytest.raises(UserError, match=r"available shared memory \(/dev/shm; .* --shm-size\) may be used; choose"):
        fill_memory(data, ShardReader(data).read, pytest.fail, size, SHARED)
    index, _ = fill_memory(data, ShardReader(data).read, lambda size: np.empty(size, np.uint8), 2 * size)
    assert [len(shard) for shard in index] == SIZES


def load_on_rank(location: str, name: str, slow: float, rank: int, world_size: int) -> tuple[list[str], int]:
    """Return the keys of all samples, and the number of shards that this rank has read."""
    data, reads = open_dataset(location), []
    reader = ShardReader(data)

    def read(shard: int) -> Any:
        reads.append(shard)
        time.sleep(slow * rank)
        return reader.read(shard)

    shards = load_decoded(data, read, Rank(rank, world_size, CPU), name)
    samples = [sample for shard in shards for sample in shard]
    assert all(isinstance(sample, DecodedSample) for sample in samples)
    total = sum(float(sample.pixels.sum()) for sample in samples if isinstance(sample, DecodedSample))
    return [f"{total}"], len(reads)


def test_ranks_of_a_machine_share_one_copy_and_leave_no_file(tmp_path: Path) -> None:
    folder, others_files = make_dataset(tmp_path, SIZES), set(SHARED_MEMORY.iterdir())
    (first, reads), (second, others) = run_ranks(2, load_on_rank, str(folder), str(tmp_path), 0.01)
    assert first == second
    assert sorted([reads, others]) == [0, 2 * len(SIZES)]
    assert not [path for path in SHARED_MEMORY.glob("imagenet-attn-*") if path not in others_files]
