"""Tests of the samples on the page of a run."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.manifest import shard_name
from tests.support.data.datasets import disc_sample, make_dataset, overwrite_member, write_dataset
from trainer.data.dataset import open_dataset
from trainer.run_page.samples import CANDIDATES, SAMPLES, draw_samples, read_page_samples


def test_samples_are_drawn_by_seed_from_the_beginning_of_one_shard() -> None:
    sizes = [1000, 40, 700]
    drawn = [draw_samples(sizes, seed) for seed in range(20)]
    assert drawn[7] == draw_samples(sizes, 7)
    for samples in drawn:
        assert len(set(samples)) == SAMPLES
        assert len({shard for shard, _ in samples}) == 1
        assert all(0 <= index < min(sizes[shard], CANDIDATES) for shard, index in samples)
    assert {samples[0][0] for samples in drawn} == {0, 1, 2}
    assert len({tuple(samples) for samples in drawn}) == len(drawn)


def test_small_shards_are_combined_and_small_data_sets_shown_completely() -> None:
    assert draw_samples([3, 2], 0) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert len(draw_samples([3] * 10, 0)) == SAMPLES


def test_samples_are_those_of_the_data_set(tmp_path: Path) -> None:
    data = open_dataset(str(make_dataset(tmp_path / "data", [5, 6])))
    samples = read_page_samples(data, seed=3, image_size=32)
    expected = [disc_sample(5 * shard + index, 4) for shard, index in draw_samples([5, 6], 3)]
    assert [sample.source for sample in samples] == [sample.info.source for sample in expected]
    for found, stored in zip(samples, expected, strict=True):
        assert np.array_equal(found.attention, stored.attention)
        assert found.clean.shape == (3, 32, 32)
        assert (found.size, found.orientation) == ((64, 48), 1)
        assert Image.open(io.BytesIO(found.photograph)).size == (64, 48)


def test_photograph_is_upright_and_the_models_image_is_not_turned(tmp_path: Path) -> None:
    upright = disc_sample(0, 4)
    turned = upright._replace(info=upright.info.model_copy(update={"exif_orientation": 6}))
    folders = (write_dataset(tmp_path / str(number), [[sample]], 4) for number, sample in enumerate((upright, turned)))
    [plain], [shown] = (read_page_samples(open_dataset(str(folder)), 0, 32) for folder in folders)
    assert Image.open(io.BytesIO(shown.photograph)).size == (48, 64)
    assert shown.orientation == 6
    assert shown.clean.equal(plain.clean)


def test_damaged_sample_and_missing_shard_raise_an_error_that_names_the_shard(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "data", [8])
    data = open_dataset(str(folder))
    overwrite_member(folder, shard_name(0), "000000003", "jpg")
    with pytest.raises(UserError, match=r"train-000000\.tar cannot be read: "):
        read_page_samples(data, 0, 32)
    (folder / shard_name(0)).unlink()
    with pytest.raises(UserError, match=r"train-000000\.tar cannot be read: "):
        read_page_samples(data, 0, 32)
