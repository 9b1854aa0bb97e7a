"""The batches of a rank: shards fetched ahead, samples decoded by others, put together."""

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
from trainer.data.augment import Draw
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
from trainer.data.sampler import Sampler, rank_slots

BATCHES_AHEAD = 3  # decoded and put together before they are needed
SHARDS_AHEAD = 8  # steps before a shard is needed, its fetching begins
FETCHERS = 4  # threads that fetch shards
PIECE = 16  # samples that are decoded at once

Shards = dict[int, "Future[list[Members]]"]  # by number, on their way


class Chosen(NamedTuple):
    """A sample of a batch: at an index of a shard, or the `further`-th after it that stands in for it.

    `among` are the members of all of that shard's samples, or of another's, where it has none.
    """

    shard: str
    among: list[Members]
    at: int
    further: int
    stands_in: bool
    seed: tuple[int, ...]

    def wanted(self) -> SampleRequest:
        return SampleRequest(self.among[(self.at + self.further) % len(self.among)], self.seed)

    def next(self) -> "Chosen":
        return self._replace(further=self.further + 1, stands_in=True)


class Stream:
    """A rank's part of every batch, from any step of the run on; `views` draw what happens to each view.

    A sample that cannot be read raises UserError with its shard and key; with `skip_damaged` the next readable sample
    takes its place, and is counted.
    """

    def __init__(
        self,
        data: Dataset,
        sampler: Sampler,
        image_size: int,
        rank: int,
        world: int,
        decoders: Decoders,
        views: Sequence[Draw],
        skip_damaged: bool = False,
    ) -> None:
        self._data, self._sampler, self._decoders, self._skip = data, sampler, decoders, skip_damaged
        self._slots = rank_slots(sampler.batch_size, world, rank)
        self._look = ViewSpec(image_size, views, data.classes)
        self._storage: Storage = open_storage(data.location)
        self._again = lru_cache(maxsize=2)(self._fetched)  # for shards that stand in for others

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """The batches of steps first ... end - 1."""
        with (
            ThreadPoolExecutor(FETCHERS) as fetchers,
            self._decoders.pool() as decoders,
            ThreadPoolExecutor(BATCHES_AHEAD) as makers,
        ):
            make = partial(self._batch, decoders)
            yield from in_order(makers, make, self._steps(fetchers, first, end), BATCHES_AHEAD)

    def _steps(self, fetchers: ThreadPoolExecutor, first: int, end: int) -> Iterator[tuple[int, Shards]]:
        """Each step with its shards, on their way."""
        shards: Shards = {}
        for step, needed in self._with_shards_ahead(first, end):
            shards = {n: shards.get(n) or fetchers.submit(self._fetched, n) for n in needed}
            yield step, shards

    def _batch(self, decoders: Executor, step_and_shards: tuple[int, Shards]) -> Batch:
        step, shards = step_and_shards
        places = self._sampler.places(step, self._slots)
        epoch = self._sampler.epoch(step)
        pairs = zip(places.shards.tolist(), places.indices.tolist(), strict=True)
        chosen = [self._chosen(shards[shard].result(), shard, index, epoch) for shard, index in pairs]
        pieces = [chosen[start : start + PIECE] for start in range(0, len(chosen), PIECE)]
        on_their_way = [self._submit(decoders, piece) for piece in pieces]
        batch = concat_batches([self._mended(decoders, *pair) for pair in zip(pieces, on_their_way, strict=True)])
        return pin_batch(batch) if torch.cuda.is_available() else batch

    def _submit(self, decoders: Executor, piece: list[Chosen]) -> "Future[Batch]":
        return decoders.submit(decode_piece, [one.wanted() for one in piece], self._look)

    def _mended(self, decoders: Executor, piece: list[Chosen], found: "Future[Batch]") -> Batch:
        """A piece when it is decoded, others in place of samples that cannot be."""
        while True:
            try:
                batch = decoder_result(found)
                return batch._replace(skipped=sum(one.stands_in for one in piece))
            except UnreadableSample as error:
                position, reason = error.args
            damaged = piece[position]
            if not self._skip:
                raise UserError(
                    f"{self._data.location}/{damaged.shard}: sample {damaged.wanted().members['__key__']!s} cannot be "
                    f"read: {reason}; check it with python -m labeler.verify, or go on without with --skip-damaged"
                )
            if damaged.further + 1 == len(damaged.among):
                raise UserError(
                    f"{self._data.location}/{damaged.shard}: none of its samples can be read; label the shard again"
                )
            piece[position] = damaged.next()
            found = self._submit(decoders, piece)

    def _chosen(self, members: list[Members], number: int, index: int, epoch: int) -> Chosen:
        """The sample at an index of a shard, or what stands in for one that the shard has lost."""
        name, seed = self._data.shards[number], (self._sampler.seed, 2, epoch, number, index)
        if not members:  # of a whole shard others stand in, each for its own part of it
            return Chosen(name, self._neighbour(number), index, 0, True, seed)
        return Chosen(name, members, index, 0, index >= len(members), seed)

    def _with_shards_ahead(self, first: int, end: int) -> Iterator[tuple[int, list[int]]]:
        """Each step with the shards that it and the next few need."""
        window: deque[set[int]] = deque()
        ahead = iter(range(first, end))
        for step in range(first, end):
            for later in itertools.islice(ahead, SHARDS_AHEAD - len(window)):
                window.append(set(self._sampler.places(later, self._slots).shards.tolist()))
            yield step, sorted(set().union(*window))
            window.popleft()

    def _fetched(self, shard: int) -> list[Members]:
        """All samples of a shard, as members by extension. Raises UserError where it is damaged, unless it skips."""
        name, expected = self._data.shards[shard], self._data.sizes[shard]
        samples: list[Members] = []
        trouble = ""
        try:
            content = io.BytesIO(self._storage.read(name))
            samples.extend(group_by_keys(tar_file_expander([{"url": name, "stream": content}])))
        except OSError as error:
            trouble = error.strerror or describe_error(error)
        except Exception as error:  # tarfile and webdataset raise many kinds on damaged bytes
            trouble = (
                describe_error(error) if len(error.args) < 2 else str(error.args[0]).partition(" @ ")[0]
            )  # webdataset's
        if len(samples) != expected:
            trouble = trouble or ("it ends early" if len(samples) < expected else "it has grown")
        if trouble and not self._skip:
            after = f"after sample {samples[-1]['__key__']!s}" if samples else "at its first sample"
            raise UserError(
                f"{self._data.location}/{name}: damaged {after}: expected {expected} samples, found {len(samples)} "
                f"({trouble}); check it with python -m labeler.verify, or go on without with --skip-damaged"
            )
        if trouble:
            print(f"{name}: {len(samples)} of {expected} samples can be read ({trouble})", file=sys.stderr)
        return samples

    def _neighbour(self, number: int) -> list[Members]:
        """The samples of the next shard that has any. Raises UserError where none has."""
        others = range(number + 1, number + len(self._data.shards))
        for other in others:
            if members := self._again(other % len(self._data.shards)):
                return members
        raise UserError(f"{self._data.location}: none of its shards can be read; label them again")
