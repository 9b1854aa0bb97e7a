"""The batches of one rank: shards are read and samples decoded ahead of the step that needs them."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

from common.errors import UserError
from common.parallel import Decoders, in_order
from trainer.data.dataset import Dataset
from trainer.data.decoding import Batch, SampleRequest, StoredSample, UnreadableSample, sample_key
from trainer.data.feed import Feed
from trainer.data.sampler import VIEWS_SEED, Sampler

BATCHES_AHEAD = 3  # batches in preparation while the network trains
STEPS_AHEAD = 8  # steps whose shards are in memory or being fetched, including the current step
FETCH_THREADS = 4

FutureShards = dict[int, "Future[Sequence[StoredSample]]"]  # samples by index of the shard


class ChosenSample(NamedTuple):
    """A sample chosen for a batch, or its replacement.

    Attributes:
        shard: index of the shard that the sampler chose.
        source: index of the shard whose sample is used: the same, or another one if it has no readable sample.
        samples: all samples of the source that were read.
        sample_index: index that the sampler chose; indices beyond the end of `samples` wrap around.
        offset: distance from `sample_index` to the sample that is used, the number of unreadable samples before it.
        is_replacement: whether the sample is not the one that the sampler chose.
        seed: random seed of the views.
    """

    shard: int
    source: int
    samples: Sequence[StoredSample]
    sample_index: int
    offset: int
    is_replacement: bool
    seed: tuple[int, ...]

    @property
    def location(self) -> tuple[int, int]:
        """Shard of the sample that is used, and its index among the samples that were read from it."""
        return self.source, (self.sample_index + self.offset) % len(self.samples)

    def request(self) -> SampleRequest:
        """Return what a feed needs."""
        return SampleRequest(self.samples[self.location[1]], self.seed)


class Stream:
    """A rank's part of every batch, from any step of the run.

    A sample that cannot be read raises UserError, which names its shard and key. With `skip_damaged` the next readable
    sample of the shard replaces it, or of the next shard if it has none, and is counted in `Batch.skipped`.

    Args:
        data: the data set.
        sampler: assigns samples to batches.
        slots: positions in each batch that this rank fills.
        read_shard: returns the samples of the shard with an index.
        feed: makes images of samples.
        decoders: threads or processes that decode.
        skip_damaged: whether to replace samples that cannot be read.
    """

    def __init__(
        self,
        data: Dataset,
        sampler: Sampler,
        slots: range,
        read_shard: Callable[[int], Sequence[StoredSample]],
        feed: Feed,
        decoders: Decoders,
        skip_damaged: bool = False,
    ) -> None:
        self._data, self._sampler, self._slots, self._skip_damaged = data, sampler, slots, skip_damaged
        self._read_shard, self._feed, self._decoders = read_shard, feed, decoders
        self._unreadable: set[tuple[int, int]] = set()  # locations, so that each is decoded once as a replacement
        self._read_replacement = lru_cache(maxsize=2)(read_shard)  # for shards that replace unreadable ones

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Yield the batches of steps `first` to `end - 1`."""
        with (
            ThreadPoolExecutor(FETCH_THREADS) as fetchers,
            self._decoders.pool() as decoders,
            ThreadPoolExecutor(BATCHES_AHEAD) as assemblers,
        ):
            make_batch = partial(self._make_batch, decoders)
            steps = self._steps_with_shards(fetchers, first, end)
            yield from map(self._feed.hand_over, in_order(assemblers, make_batch, steps, BATCHES_AHEAD))

    def _steps_with_shards(
        self, fetchers: ThreadPoolExecutor, first: int, end: int
    ) -> Iterator[tuple[int, FutureShards]]:
        """Yield each step with the shards of the next steps, which are being fetched; older shards are released."""
        shards: FutureShards = {}
        for step, needed in self._steps_with_needed_shards(first, end):
            shards = {shard: shards.get(shard) or fetchers.submit(self._read_shard, shard) for shard in needed}
            yield step, shards

    def _steps_with_needed_shards(self, first: int, end: int) -> Iterator[tuple[int, list[int]]]:
        """Yield each step with the shards that it and the steps after it need, `STEPS_AHEAD` steps in all."""
        window: deque[set[int]] = deque()
        upcoming = iter(range(first, end))
        for step in range(first, end):
            for later in itertools.islice(upcoming, STEPS_AHEAD - len(window)):
                window.append(set(self._sampler.locate(later, self._slots).shards.tolist()))
            yield step, sorted(set().union(*window))
            window.popleft()

    def _make_batch(self, decoders: Executor, step_and_shards: tuple[int, FutureShards]) -> Batch:
        step, shards = step_and_shards
        locations = self._sampler.locate(step, self._slots)
        epoch = self._sampler.epoch(step)
        pairs = zip(locations.shards.tolist(), locations.indices.tolist(), strict=True)
        chosen = [self._choose(shards[shard].result(), shard, index, epoch) for shard, index in pairs]
        size = self._feed.samples_per_piece
        pieces = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        futures = [self._submit(decoders, piece) for piece in pieces]
        with self._feed.device_context():
            return self._feed.join([self._finish(decoders, *pair) for pair in zip(pieces, futures, strict=True)])

    def _choose(self, samples: Sequence[StoredSample], shard: int, index: int, epoch: int) -> ChosenSample:
        """Return the sample at an index of a shard, or a replacement if the shard has lost it."""
        seed = (self._sampler.seed, VIEWS_SEED, epoch, shard, index)
        chosen = ChosenSample(shard, shard, samples, index, 0, index >= len(samples), seed)
        return chosen if samples else self._replace_from_next_shard(chosen)

    def _submit(self, decoders: Executor, piece: list[ChosenSample]) -> "Future[Any]":
        return self._feed.submit(decoders, [sample.request() for sample in piece])

    def _finish(self, decoders: Executor, piece: list[ChosenSample], future: "Future[Any]") -> Batch:
        """Wait for a piece; submit it again, with a replacement, as long as it has an unreadable sample."""
        while True:
            try:
                batch = self._feed.finish([sample.request() for sample in piece], future)
                return batch._replace(skipped=sum(sample.is_replacement for sample in piece))
            except UnreadableSample as error:
                position, reason = error.position, error.reason
            damaged = piece[position]
            if not self._skip_damaged:
                shard, key = self._data.shards[damaged.shard], sample_key(damaged.request().sample)
                raise UserError(
                    f"{self._data.location}/{shard}: sample {key} cannot be read: {reason}; check the data set with "
                    "python -m labeler.verify, or resume with --skip-damaged"
                )
            self._unreadable.add(damaged.location)
            piece[position] = self._replace(damaged)
            future = self._submit(decoders, piece)

    def _replace(self, damaged: ChosenSample) -> ChosenSample:
        """Return the next sample of the shard that is not known to be unreadable, else one of the next shard."""
        for offset in range(damaged.offset + 1, len(damaged.samples)):
            candidate = damaged._replace(offset=offset, is_replacement=True)
            if candidate.location not in self._unreadable:
                return candidate
        return self._replace_from_next_shard(damaged)

    def _replace_from_next_shard(self, damaged: ChosenSample) -> ChosenSample:
        """Return a sample of the next shard that has any. Raises UserError if no other shard has."""
        shards = len(self._data.shards)
        tried = (damaged.source - damaged.shard) % shards
        for distance in range(tried + 1, shards):
            source = (damaged.shard + distance) % shards
            if samples := self._read_replacement(source):
                return damaged._replace(source=source, samples=samples, offset=0, is_replacement=True)
        raise UserError(f"{self._data.location}: none of its shards can be read; label them again")
