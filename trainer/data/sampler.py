"""The assignment of samples to batches, as a pure function of the step, so that a resumed run needs no other state.

In each epoch, the shards are put in an order that depends on the seed and the epoch, and so are the samples within each
shard. The resulting sequence of samples is cut into equal lanes. Every step takes the next few samples of each lane.
So a batch mixes as many shards as there are lanes, each shard is read by one or two ranks, and the samples of a batch
do not depend on the number of ranks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.text import pluralize

MAX_LANES = 32  # each lane needs a shard in memory

# Second element of the input pipeline's seed tuples, so that no two purposes share random numbers.
SHARD_ORDER_SEED, SAMPLE_ORDER_SEED, VIEWS_SEED, HUMAN_ORDER_SEED, OBJECTIVES_SEED = 0, 1, 2, 3, 4


class SampleLocations(NamedTuple):
    """Locations of n samples in a data set.

    Attributes:
        shards: indices of their shards, int64 [n].
        indices: indices of the samples in these shards, int64 [n].
    """

    shards: np.ndarray
    indices: np.ndarray


class Sampler:
    """Random batches without replacement from the shards of a data set.

    Args:
        sizes: number of samples of each shard.
        batch_size: samples per batch, over all ranks.
        seed: random seed of the order.

    Raises UserError if there are fewer samples than a batch needs.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int) -> None:
        self.sizes, self.batch_size, self.seed = np.asarray(sizes, np.int64), batch_size, seed
        self.samples = int(self.sizes.sum())
        self.steps_per_epoch = self.samples // batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"--batch-size {batch_size}: the data set has only {pluralize(self.samples, 'sample')}; choose a "
                "smaller batch size"
            )
        self.lanes = max(lanes for lanes in range(1, MAX_LANES + 1) if batch_size % lanes == 0)

    def locate(self, step: int, slots: range) -> SampleLocations:
        """Return the locations of the samples in some slots of a batch.

        No sample is used twice in an epoch. The samples that would not fill a last batch are skipped; they differ
        between epochs.

        Args:
            step: step of the run, counted from 0 over all epochs.
            slots: positions in the batch, between 0 and `batch_size`.
        """
        epoch, step = divmod(step, self.steps_per_epoch)
        samples_per_lane = self.batch_size // self.lanes  # in each step
        lanes, offsets = np.divmod(np.asarray(slots), samples_per_lane)
        positions = lanes * self.samples // self.lanes + step * samples_per_lane + offsets
        order, ends = self._shard_order(epoch)
        order_indices = np.searchsorted(ends, positions, side="right")
        shards = order[order_indices]
        positions_in_shard = positions - (ends[order_indices] - self.sizes[shards])
        indices = [
            self._sample_order(epoch, int(shard))[position]
            for shard, position in zip(shards, positions_in_shard, strict=True)
        ]
        return SampleLocations(shards, np.array(indices, np.int64))

    def epoch(self, step: int) -> int:
        """Return the epoch, counted from 0, to which a step belongs."""
        return step // self.steps_per_epoch

    @lru_cache(maxsize=2)  # noqa: B019 - a run has one sampler
    def _shard_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the shards of an epoch in their order, and the position in the sequence where each of them ends."""
        order = np.random.default_rng([self.seed, SHARD_ORDER_SEED, epoch]).permutation(len(self.sizes))
        return order, self.sizes[order].cumsum()

    @lru_cache(maxsize=2 * MAX_LANES)  # noqa: B019
    def _sample_order(self, epoch: int, shard: int) -> np.ndarray:
        """Return the order of a shard's samples in an epoch."""
        return np.random.default_rng([self.seed, SAMPLE_ORDER_SEED, epoch, shard]).permutation(self.sizes[shard])


def rank_slots(batch_size: int, world_size: int, rank: int, flag: str = "--batch-size") -> range:
    """Return the slots of every batch that a rank fills.

    Raises UserError, naming `flag`, if the batch cannot be divided equally among `world_size` ranks.
    """
    if batch_size % world_size:
        raise UserError(f"{flag} {batch_size}: expected a multiple of the number of workers, {world_size}")
    share = batch_size // world_size
    return range(rank * share, (rank + 1) * share)
