import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from trainer.data.sampler import Sampler, rank_slots

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda numbers: sum(numbers) >= 12)


def epoch_of(sampler, epoch, world=1):
    """Every sample of an epoch, as (shard, index), in the order of steps and slots."""
    found = []
    for step in range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch):
        for rank in range(world):
            places = sampler.places(step, rank_slots(sampler.batch_size, world, rank))
            found += zip(places.shards.tolist(), places.indices.tolist(), strict=True)
    return found


@settings(deadline=None, max_examples=50)
@given(sizes=sizes, batch=st.integers(1, 12), epoch=st.integers(0, 3))
def test_no_sample_comes_twice_in_an_epoch_and_all_are_real(sizes, batch, epoch):
    sampler = Sampler(sizes, batch, seed=1)
    found = epoch_of(sampler, epoch)
    assert len(found) == len(set(found)) == sampler.steps_per_epoch * batch
    assert all(0 <= index < sizes[shard] for shard, index in found)
    assert sampler.steps_per_epoch == sum(sizes) // batch


@settings(deadline=None, max_examples=30)
@given(sizes=sizes, world=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_the_batches_do_not_depend_on_the_number_of_ranks(sizes, world):
    sampler = Sampler(sizes, 12, seed=0)
    assert epoch_of(sampler, 1, world) == epoch_of(sampler, 1)


def test_epochs_and_seeds_differ_and_the_same_seed_repeats():
    assert epoch_of(Sampler([50, 50], 10, 0), 0) == epoch_of(Sampler([50, 50], 10, 0), 0)
    assert epoch_of(Sampler([50, 50], 10, 0), 0) != epoch_of(Sampler([50, 50], 10, 0), 1)
    assert epoch_of(Sampler([50, 50], 10, 0), 0) != epoch_of(Sampler([50, 50], 10, 1), 0)


def test_a_step_is_found_without_those_before_it():
    sampler = Sampler([30, 20, 41], 7, 3)
    later = Sampler([30, 20, 41], 7, 3)
    every = epoch_of(sampler, 2)
    step = 2 * later.steps_per_epoch + 5
    places = later.places(step, range(7))
    assert list(zip(places.shards.tolist(), places.indices.tolist(), strict=True)) == every[35:42]


def test_a_batch_mixes_many_shards_and_each_shard_is_read_in_one_go():
    sampler = Sampler([100] * 64, 64, 0)
    assert len(set(sampler.places(0, range(64)).shards.tolist())) >= 30
    reads = 0  # how often a rank turns to a shard that it does not hold
    held: set[int] = set()
    for step in range(sampler.steps_per_epoch):
        needed = set(sampler.places(step, rank_slots(64, 4, 1)).shards.tolist())
        reads += len(needed - held)
        held = needed
    assert reads <= 64 / 4 + 1


def test_samples_that_no_batch_takes_differ_from_epoch_to_epoch():
    sampler = Sampler([13], 5, 0)
    left_out = [set(range(13)) - {index for _, index in epoch_of(sampler, epoch)} for epoch in range(20)]
    assert set().union(*left_out) == set(range(13))


@pytest.mark.parametrize("batch", [1, 2, 3, 31, 33, 64, 2048])
def test_lanes_divide_the_batch(batch):
    sampler = Sampler([5000], batch, 0)
    assert batch % sampler.lanes == 0


def test_too_few_samples_are_refused():
    with pytest.raises(UserError, match="--batch-size 64: the data hold only 30 samples"):
        Sampler([10, 20], 64, 0)


def test_a_batch_that_ranks_cannot_share_evenly_is_refused():
    with pytest.raises(UserError, match="--batch-size 10: expected a multiple of the number of workers, 3"):
        rank_slots(10, 3, 0)


def test_a_rank_of_eight_holds_few_of_the_shards_of_imagenet():
    sampler = Sampler([1000] * 1281, 2048, 0)
    places = sampler.places(100, range(256))
    assert len(np.unique(places.shards)) <= 8
