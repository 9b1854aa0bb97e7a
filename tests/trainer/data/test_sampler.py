import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from trainer.data.sampler import MAX_LANES, Sampler, rank_slots

shard_sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) >= 12)


def samples_of_epoch(sampler, epoch, world_size=1):
    """Return all samples of an epoch as (shard, index), in the order of steps and slots."""
    samples = []
    for step in range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch):
        for rank in range(world_size):
            locations = sampler.locate(step, rank_slots(sampler.batch_size, world_size, rank))
            samples += zip(locations.shards.tolist(), locations.indices.tolist(), strict=True)
    return samples


@settings(deadline=None, max_examples=50)
@given(sizes=shard_sizes, batch=st.integers(1, 12), epoch=st.integers(0, 3))
def test_samples_of_an_epoch_are_distinct_and_exist(sizes, batch, epoch):
    sampler = Sampler(sizes, batch, seed=1)
    samples = samples_of_epoch(sampler, epoch)
    assert len(samples) == len(set(samples)) == sampler.steps_per_epoch * batch
    assert all(0 <= index < sizes[shard] for shard, index in samples)
    assert sampler.steps_per_epoch == sum(sizes) // batch


@settings(deadline=None, max_examples=30)
@given(sizes=shard_sizes.filter(lambda sizes: sum(sizes) >= 24), world_size=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]))
def test_batches_do_not_depend_on_the_number_of_ranks(sizes, world_size):
    sampler = Sampler(sizes, 24, seed=0)
    assert samples_of_epoch(sampler, 1, world_size) == samples_of_epoch(sampler, 1)


def reference_epoch(sizes, batch, seed, epoch):
    """Return the batches of an epoch: lists of (shard, index). Seeds and layout are part of the format of a run."""
    sequence = []
    for shard in np.random.default_rng([seed, 0, epoch]).permutation(len(sizes)):
        order = np.random.default_rng([seed, 1, epoch, shard]).permutation(sizes[shard])
        sequence += [(int(shard), int(index)) for index in order]
    lanes = next(lanes for lanes in range(32, 0, -1) if batch % lanes == 0)
    starts, share = [lane * len(sequence) // lanes for lane in range(lanes)], batch // lanes
    return [
        [sample for start in starts for sample in sequence[start + step * share : start + (step + 1) * share]]
        for step in range(len(sequence) // batch)
    ]


@pytest.mark.parametrize(("sizes", "batch"), [([30, 0, 20, 41], 7), ([50] * 9, 64), ([90, 1, 9], 99), ([8], 1)])
def test_batches_are_those_of_the_reference(sizes, batch):
    sampler = Sampler(sizes, batch, seed=3)
    expected = [found for epoch in range(2) for found in reference_epoch(sizes, batch, 3, epoch)]
    for step, samples in enumerate(expected):
        locations = sampler.locate(step, range(batch))
        assert list(zip(locations.shards.tolist(), locations.indices.tolist(), strict=True)) == samples
        assert (locations.shards.dtype, locations.indices.dtype) == (np.int64, np.int64)
        assert sampler.epoch(step) == step * 2 // len(expected)


@pytest.mark.parametrize(("batch", "lanes"), [(1, 1), (31, 31), (33, 11), (64, 32), (37, 1), (2048, 32)])
def test_lanes_are_the_largest_divisor_of_the_batch_up_to_the_limit(batch, lanes):
    assert MAX_LANES == 32
    assert Sampler([5000], batch, 0).lanes == lanes


def test_data_set_of_exactly_one_batch_is_accepted():
    assert Sampler([3, 4], 7, 0).steps_per_epoch == 1


def test_order_depends_on_seed_and_epoch_only():
    assert samples_of_epoch(Sampler([50, 50], 10, 0), 0) == samples_of_epoch(Sampler([50, 50], 10, 0), 0)
    assert samples_of_epoch(Sampler([50, 50], 10, 0), 0) != samples_of_epoch(Sampler([50, 50], 10, 0), 1)
    assert samples_of_epoch(Sampler([50, 50], 10, 0), 0) != samples_of_epoch(Sampler([50, 50], 10, 1), 0)


def test_later_step_needs_no_earlier_steps():
    sampler = Sampler([30, 20, 41], 7, 3)
    other = Sampler([30, 20, 41], 7, 3)
    samples = samples_of_epoch(sampler, 2)
    step = 2 * other.steps_per_epoch + 5
    locations = other.locate(step, range(7))
    assert list(zip(locations.shards.tolist(), locations.indices.tolist(), strict=True)) == samples[35:42]


def test_batch_mixes_many_shards_and_a_rank_reads_each_of_its_shards_once():
    sampler = Sampler([100] * 64, 64, 0)
    assert len(set(sampler.locate(0, range(64)).shards.tolist())) >= 30
    reads = 0  # number of times that the rank needs a shard which it did not need in the step before
    in_memory: set[int] = set()
    for step in range(sampler.steps_per_epoch):
        needed = set(sampler.locate(step, rank_slots(64, 4, 1)).shards.tolist())
        reads += len(needed - in_memory)
        in_memory = needed
    assert reads <= 64 / 4 + 1


def test_skipped_samples_differ_between_epochs():
    sampler = Sampler([13], 5, 0)
    skipped = [set(range(13)) - {index for _, index in samples_of_epoch(sampler, epoch)} for epoch in range(20)]
    assert set().union(*skipped) == set(range(13))


@pytest.mark.parametrize("batch", [1, 2, 3, 31, 33, 64, 2048])
def test_lanes_divide_the_batch(batch):
    sampler = Sampler([5000], batch, 0)
    assert batch % sampler.lanes == 0


def test_too_few_samples_are_rejected():
    with pytest.raises(UserError, match="--batch-size 64: the data set has only 30 samples"):
        Sampler([10, 20], 64, 0)


def test_batch_size_that_is_no_multiple_of_ranks_is_rejected():
    with pytest.raises(UserError, match="--batch-size 10: expected a multiple of the number of workers, 3"):
        rank_slots(10, 3, 0)
    with pytest.raises(UserError, match="--human-batch-size 10: expected a multiple"):
        rank_slots(10, 4, 0, "--human-batch-size")
    assert [rank_slots(12, 3, rank) for rank in range(3)] == [range(4), range(4, 8), range(8, 12)]


def test_one_of_eight_ranks_needs_few_of_imagenets_shards_at_a_time():
    sampler = Sampler([1000] * 1281, 2048, 0)
    locations = sampler.locate(100, range(256))
    assert len(np.unique(locations.shards)) <= 8
