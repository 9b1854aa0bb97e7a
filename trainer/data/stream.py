"""The batches of one rank: shards are fetched and samples decoded ahead of the step that needs them."""

import io
import itertools
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from webdataset.tariterators import group_by_keys, tar_file_expander

from common.errors import UserError, describe_error
from common.parallel import Decoders, decoder_result, in_order
from common.storage import Storage, open_storage
from common.text import pluralize
from trainer.data.augment import SIMCLR_VIEWS, Draw, ViewSettings
from trainer.data.dataset import Dataset
from trainer.data.decoding import (
    Batch,
    Members,
    SampleRequest,
    UnreadableSample,
    ViewSpec,
    concat_batches,
    decode_piece,
    pin_batch,
)
from trainer.data.sampler import VIEWS_SEED, Sampler, rank_slots
from trainer.data.shard_cache import ShardCache

BATCHES_AHEAD = 3  # batches in preparation while the network trains
STEPS_AHEAD = 8  # steps whose shards are in memory or being fetched, including the current step
FETCH_THREADS = 4
SAMPLES_PER_PIECE = 16  # decoded by one thread or process in one call

FutureShards = dict[int, "Future[list[Members]]"]  # samples by index of the shard


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
    samples: list[Members]
    sample_index: int
    offset: int
    is_replacement: bool
    seed: tuple[int, ...]

    @property
    def location(self) -> tuple[int, int]:
        """Shard of the sample that is used, and its index among the samples that were read from it."""
        return self.source, (self.sample_index + self.offset) % len(self.samples)

    def request(self) -> SampleRequest:
        """Return what a decoder needs."""
        return SampleRequest(self.samples[self.location[1]], self.seed)


class Stream:
    """A rank's part of every batch, from any step of the run.

    A sample that cannot be read raises UserError, which names its shard and key. With `skip_damaged` the next readable
    sample of the shard replaces it, or of the next shard if it has none, and is counted in `Batch.skipped`.

    Args:
        data: the data set.
        sampler: assigns samples to batches.
        image_size: side of views and clean images in pixels.
        rank: index of this rank.
        world_size: number of ranks.
        decoders: threads or processes that decode.
        views: one function per view that draws the augmentation of a random crop.
        skip_damaged: whether to replace samples that cannot be read.
        view_settings: settings of the views.
        cache: keeps shards on a local disk; None reads them from the data set each time.

    Raises UserError if a batch cannot be divided equally among the ranks.
    """

    def __init__(
        self,
        data: Dataset,
        sampler: Sampler,
        image_size: int,
        rank: int,
        world_size: int,
        decoders: Decoders,
        views: Sequence[Draw],
        skip_damaged: bool = False,
        view_settings: ViewSettings = SIMCLR_VIEWS,
        cache: ShardCache | None = None,
    ) -> None:
        self._data, self._sampler, self._decoders, self._skip_damaged = data, sampler, decoders, skip_damaged
        self._slots = rank_slots(sampler.batch_size, world_size, rank)
        self._view_spec = ViewSpec(image_size, views, data.classes, view_settings)
        self._storage: Storage = open_storage(data.location)
        self._cache = cache
        self._unreadable: set[tuple[int, int]] = set()  # locations, so that each is decoded once as a replacement
        self._fetch_cached = lru_cache(maxsize=2)(self._fetch)  # for shards that replace unreadable ones

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """Yield the batches of steps `first` to `end - 1`."""
        with (
            ThreadPoolExecutor(FETCH_THREADS) as fetchers,
            self._decoders.pool() as decoders,
            ThreadPoolExecutor(BATCHES_AHEAD) as assemblers,
        ):
            make_batch = partial(self._make_batch, decoders)
            yield from in_order(assemblers, make_batch, self._steps_with_shards(fetchers, first, end), BATCHES_AHEAD)

    def _steps_with_shards(
        self, fetchers: ThreadPoolExecutor, first: int, end: int
    ) -> Iterator[tuple[int, FutureShards]]:
        """Yield each step with the shards of the next steps, which are being fetched; older shards are released."""
        shards: FutureShards = {}
        for step, needed in self._steps_with_needed_shards(first, end):
            shards = {shard: shards.get(shard) or fetchers.submit(self._fetch, shard) for shard in needed}
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
        pieces = [chosen[start : start + SAMPLES_PER_PIECE] for start in range(0, len(chosen), SAMPLES_PER_PIECE)]
        futures = [self._submit(decoders, piece) for piece in pieces]
        batch = concat_batches([self._finish(decoders, *pair) for pair in zip(pieces, futures, strict=True)])
        return pin_batch(batch) if torch.cuda.is_available() else batch

    def _choose(self, samples: list[Members], shard: int, index: int, epoch: int) -> ChosenSample:
        """Return the sample at an index of a shard, or a replacement if the shard has lost it."""
        seed = (self._sampler.seed, VIEWS_SEED, epoch, shard, index)
        chosen = ChosenSample(shard, shard, samples, index, 0, index >= len(samples), seed)
        return chosen if samples else self._replace_from_next_shard(chosen)

    def _submit(self, decoders: Executor, piece: list[ChosenSample]) -> "Future[Batch]":
        return decoders.submit(decode_piece, [sample.request() for sample in piece], self._view_spec)

    def _finish(self, decoders: Executor, piece: list[ChosenSample], future: "Future[Batch]") -> Batch:
        """Wait for a decoded piece; decode it again, with a replacement, as long as it has an unreadable sample."""
        while True:
            try:
                batch = decoder_result(future)
                return batch._replace(skipped=sum(sample.is_replacement for sample in piece))
            except UnreadableSample as error:
                position, reason = error.position, error.reason
            damaged = piece[position]
            if not self._skip_damaged:
                shard, key = self._data.shards[damaged.shard], str(damaged.request().members["__key__"])
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
            if samples := self._fetch_cached(source):
                return damaged._replace(source=source, samples=samples, offset=0, is_replacement=True)
        raise UserError(f"{self._data.location}: none of its shards can be read; label them again")

    def _read(self, shard: int) -> bytes:
        name = self._data.shards[shard]
        if self._cache is None:
            return self._storage.read(name)
        return self._cache.read(self._data.checksums[shard], lambda: self._storage.read(name))

    def _fetch(self, shard: int) -> list[Members]:
        """Read all samples of a shard.

        If it is damaged, raises UserError or, with `skip_damaged`, returns the samples before the damage.
        """
        name, expected = self._data.shards[shard], self._data.sizes[shard]
        samples: list[Members] = []
        problem = ""
        try:
            content = io.BytesIO(self._read(shard))
            samples.extend(group_by_keys(tar_file_expander([{"url": name, "stream": content}])))
        except OSError as error:
            problem = error.strerror or describe_error(error)
        except Exception as error:  # tarfile and webdataset raise many types for damaged bytes
            problem = _describe_tar_error(error)
        if len(samples) != expected:
            problem = problem or ("it ends early" if len(samples) < expected else "it has more samples than expected")
        if problem and not self._skip_damaged:
            where = f"after sample {samples[-1]['__key__']!s}" if samples else "at its first sample"
            raise UserError(
                f"{self._data.location}/{name}: damaged {where}: expected {pluralize(expected, 'sample')}, found "
                f"{len(samples):,} ({problem}); check the data set with python -m labeler.verify, or resume with "
                "--skip-damaged"
            )
        if problem:
            print(f"{name}: {len(samples)} of {expected} samples can be read ({problem})", file=sys.stderr)
        return samples


def _describe_tar_error(error: Exception) -> str:
    """Describe an error without webdataset's additions: two arguments, and " @ " with the stream in the message."""
    return describe_error(error) if len(error.args) < 2 else str(error.args[0]).partition(" @ ")[0]
