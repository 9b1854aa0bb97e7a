"""Tests of the reader of damaged shards."""

from pathlib import Path

import numpy as np
import pytest

from common.shards import Sample, SampleInfo, ShardWriter
from common.storage import LocalStorage
from common.text import pluralize
from labeler.inspection.reader import map_samples

SHARD = "train-000000.tar"
KEYS = [f"{index:09d}" for index in range(4)]


def make_sample(key: str) -> Sample:
    info = SampleInfo(
        source=f"{key}.jpg",
        wnid="",
        width=8,
        height=8,
        exif_orientation=1,
        source_sha256="0" * 64,
        reencoded_from="",
        teacher="tests",
        map_max=1.0,
        gaze_points=0,
    )
    return Sample(key, None, None, info, np.full((8, 8), 255, np.uint8), np.zeros((0, 3), np.float32))


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    with open(tmp_path / SHARD, "wb") as file:
        writer = ShardWriter(file)
        for key in KEYS:
            writer.add(key, make_sample(key).members())
        writer.close()
    return LocalStorage(tmp_path)


def read_keys(
    storage: LocalStorage, expected_samples: int | None = None, keys: list[str] | None = None
) -> tuple[list[str], list[str]]:
    """Read the shard; return the keys of the samples read, and the problems."""
    problems: list[str] = []
    samples = map_samples(
        lambda sample: sample.key,
        storage,
        SHARD,
        on_problem=problems.append,
        expected_samples=expected_samples,
        keys=keys,
    )
    return list(samples), problems


@pytest.mark.parametrize("expected_samples", [None, 4])
def test_a_sound_shard_is_read_without_problems(storage: LocalStorage, expected_samples: int | None) -> None:
    assert read_keys(storage, expected_samples) == (KEYS, [])


def test_only_the_given_keys_are_read_but_all_samples_are_counted(storage: LocalStorage) -> None:
    assert read_keys(storage, 4, [KEYS[3], KEYS[1]]) == ([KEYS[1], KEYS[3]], [])


def test_an_unexpected_number_of_samples_is_a_problem(storage: LocalStorage) -> None:
    assert read_keys(storage, 5) == (KEYS, ["holds 4 samples, its record counts 5"])


def test_a_damaged_sample_is_skipped_and_reported(storage: LocalStorage, tmp_path: Path) -> None:
    content = (tmp_path / SHARD).read_bytes()
    (tmp_path / SHARD).write_bytes(content.replace(b"IHDR", b"XXXX", 1))
    keys, [problem] = read_keys(storage, 4)
    assert keys == KEYS[1:]
    assert problem.startswith(f"sample {KEYS[0]} cannot be read: ")


def test_an_exception_of_the_function_is_reported_as_a_problem_of_its_sample(storage: LocalStorage) -> None:
    problems: list[str] = []

    def fail(sample: Sample) -> None:
        raise ValueError("wrong shape")

    assert list(map_samples(fail, storage, SHARD, on_problem=problems.append)) == []
    assert problems == [f"sample {key} cannot be read: wrong shape" for key in KEYS]


def test_a_truncated_shard_is_read_up_to_the_damage(storage: LocalStorage, tmp_path: Path) -> None:
    content = (tmp_path / SHARD).read_bytes()
    (tmp_path / SHARD).write_bytes(content[: content.index(f"{KEYS[2]}.json".encode()) + 100])
    keys, [problem] = read_keys(storage, 4)
    assert keys == KEYS[: len(keys)]
    assert len(keys) in (1, 2)
    assert problem.startswith(f"damaged after {pluralize(len(keys), 'sample')}: ")


def test_a_missing_shard_is_reported(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / SHARD).unlink()
    keys, [problem] = read_keys(storage)
    assert keys == []
    assert problem.startswith("damaged after 0 samples: ")
