"""Which sample is where in a training run: a pure function, so that the state of the data is one integer, the step.

The samples of an epoch stand in a row: the shards in an order drawn by seed and epoch, the samples of each in an order
drawn alike. The row is cut into equal lanes, which advance together: every step takes the next few samples of each. So
a batch mixes as many shards as there are lanes, each shard is read by one rank or two, and which samples form a batch
does not depend on the number of ranks.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from common.errors import UserError

MOST_LANES = 32  # each holds a shard in memory


class SampleLocations(NamedTuple):
    """Where samples lie: numbers of shards, and indices of samples in them; int64 [n] each."""

    shards: np.ndarray
    indices: np.ndarray


class Sampler:
    """The batches of `batch_size` samples from shards with `sizes` samples each.

    Raises UserError where there are fewer samples than a batch holds.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int) -> None:
        self.sizes, self.batch_size, self.seed = np.asarray(sizes, np.int64), batch_size, seed
        self.samples = int(self.sizes.sum())
        self.steps_per_epoch = self.samples // batch_size
        if not self.steps_per_epoch:
            raise UserError(f"--batch-size {batch_size}: the data hold only {self.samples:,} samples; choose fewer")
        self.lanes = max(lanes for lanes in range(1, MOST_LANES + 1) if batch_size % lanes == 0)

    def places(self, step: int, slots: range) -> SampleLocations:
        """Where the samples of some slots of a step's batch lie; `step` counts on through the epochs.

        The sizes are true counts, and no sample is used twice in an epoch; what does not fill a batch is left out.
        """
        epoch, step = divmod(step, self.steps_per_epoch)
        per_lane = self.batch_size // self.lanes
        lanes, offsets = np.divmod(np.asarray(slots), per_lane)
        positions = lanes * self.samples // self.lanes + step * per_lane + offsets
        order, ends = self._row(epoch)
        at = np.searchsorted(ends, positions, side="right")
        shards, within = order[at], positions - (ends[at] - self.sizes[order[at]])
        indices = [self._within(epoch, int(shard))[index] for shard, index in zip(shards, within, strict=True)]
        return SampleLocations(shards, np.array(indices, np.int64))

    def epoch(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch

    @lru_cache(maxsize=2)  # noqa: B019 - a run has one sampler
    def _row(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards of an epoch in their order, and where each ends in the row."""
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.sizes))
        return order, self.sizes[order].cumsum()

    @lru_cache(maxsize=2 * MOST_LANES)  # noqa: B019
    def _within(self, epoch: int, shard: int) -> np.ndarray:
        """The order of a shard's samples."""
        return np.random.default_rng([self.seed, 1, epoch, shard]).permutation(self.sizes[shard])


def rank_slots(batch_size: int, world: int, rank: int, flag: str = "--batch-size") -> range:
    """The slots of every batch that a rank fills. Raises UserError where the ranks' parts would not be equal."""
    if batch_size % world:
        raise UserError(f"{flag} {batch_size}: expected a multiple of the number of workers, {world}")
    share = batch_size // world
    return range(rank * share, (rank + 1) * share)
