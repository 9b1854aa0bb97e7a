import itertools

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.shards import Sample
from tests.support.data.datasets import disc_sample, make_dataset, overwrite_member, write_dataset
from trainer.config import TrainConfig
from trainer.data.dataset import open_dataset
from trainer.data.shard_reader import ShardReader
from trainer.objectives import AttentionObjective, CenterTarget, mean_map
from trainer.objectives.attention_targets import CENTER_SIDE
from trainer.objectives.mean_map import compute_mean_map
from trainer.recipes import build, get_recipe


def mean_of_discs(indices):
    return np.mean([disc_sample(index, 4).attention / 255 for index in indices], axis=0)


def test_mean_is_over_all_maps_of_a_small_data_set(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [3, 4])))
    np.testing.assert_allclose(compute_mean_map(data, 0).numpy(), mean_of_discs(range(7)), atol=1e-6)


def test_images_are_drawn_by_seed_and_no_more_shards_are_read_than_needed(tmp_path, monkeypatch):
    data = open_dataset(str(make_dataset(tmp_path, [5] * 6)))
    monkeypatch.setattr(mean_map, "IMAGES", 8)
    read, shards = ShardReader.read, []
    monkeypatch.setattr(ShardReader, "read", lambda self, shard: (shards.append(shard), read(self, shard))[1])
    found = compute_mean_map(data, 3)
    first, second = shards
    indices = [*range(5 * first, 5 * first + 5), *range(5 * second, 5 * second + 3)]
    np.testing.assert_allclose(found.numpy(), mean_of_discs(indices), atol=1e-6)
    assert torch.equal(compute_mean_map(data, 3), found)
    maps = [compute_mean_map(data, seed) for seed in range(5)]
    assert any(not torch.equal(*pair) for pair in itertools.pairwise(maps))


def test_images_are_not_decoded(tmp_path):
    samples = [disc_sample(index, 2) for index in range(4)]
    damaged = [Sample(sample.key, b"no JPEG", *sample[2:]) for sample in samples]
    found = compute_mean_map(open_dataset(str(write_dataset(tmp_path, [damaged], 2))), 0)
    np.testing.assert_allclose(found.numpy(), mean_of_discs(range(4)), atol=1e-6)


def test_damaged_map_is_named_or_skipped(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [3])))
    overwrite_member(tmp_path, data.shards[0], "000000001", "attn.png")
    with pytest.raises(UserError, match=r"map of sample 000000001 cannot be read: .* add --skip-damaged"):
        compute_mean_map(data, 0)
    np.testing.assert_allclose(compute_mean_map(data, 0, skip_damaged=True).numpy(), mean_of_discs([0, 2]), atol=1e-6)
    for key in ("000000000", "000000002"):
        overwrite_member(tmp_path, data.shards[0], key, "attn.png")
    with pytest.raises(UserError, match="none of its attention maps can be read"):
        compute_mean_map(data, 0, skip_damaged=True)


def test_recipe_is_prepared_with_the_mean_map_without_drawing_from_global_generators(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [9])))
    config = TrainConfig(recipe="contrastive-attn-center", backbone="resnet18")
    model = build(config.recipe, config, 4)
    state = torch.get_rng_state()
    get_recipe(config.recipe).prepare(model, data, config)
    assert torch.equal(torch.get_rng_state(), state)
    target = model.objective(AttentionObjective).target
    assert isinstance(target, CenterTarget)
    small = torch.nn.functional.adaptive_avg_pool2d(target.mean_map[None], 32)[0]
    assert target.mean_map.shape == (CENTER_SIDE, CENTER_SIDE)
    np.testing.assert_allclose(small.numpy(), mean_of_discs(range(9)), atol=0.02)
