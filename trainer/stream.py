"""The batches of a rank: shards fetched ahead, samples decoded once and cropped three times, in threads."""

import io
import itertools
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from common.errors import UserError, told
from common.images import decoded_jpeg
from common.shards import decode_map, decode_points
from common.storage import Storage, open_storage
from trainer.augment import Draw, packed
from trainer.dataset import DataSet
from trainer.sampler import Sampler, slots_of
from trainer.views import cropped, draw_crop, stacked, whole

BATCHES_AHEAD = 2  # decoded before they are needed
SHARDS_AHEAD = 8  # steps before a shard is needed, its fetching begins
FETCHERS = 4  # threads that fetch shards
NO_CLASS = -1

Members = dict[str, bytes]
T = TypeVar("T")


class Sample(NamedTuple):
    """One image as a step needs it: uint8 views [V, 3, S, S] and whole frame [3, S, S], the views' parameters [V, 11],
    the attention map uint8 [M, M], gaze points [n, 3], class index (-1: none) and key."""

    views: Tensor
    clean: Tensor
    augmentation: Tensor
    attention: Tensor
    gaze: np.ndarray
    label: int
    key: str


class Batch(NamedTuple):
    """Samples side by side; `skipped` of them stand for samples that could not be read."""

    views: Tensor
    clean: Tensor
    augmentation: Tensor
    attention: Tensor
    gaze: list[np.ndarray]
    labels: Tensor
    keys: list[str]
    skipped: int


class Stream:
    """A rank's part of every batch, from any step of the run on; `views` draw what happens to each view.

    A sample that cannot be read raises UserError with its shard and key; with `skip_damaged` the next readable sample
    takes its place, and is counted.
    """

    def __init__(
        self,
        data: DataSet,
        sampler: Sampler,
        image_size: int,
        rank: int,
        world: int,
        threads: int,
        views: Sequence[Draw],
        skip_damaged: bool = False,
    ) -> None:
        self._data, self._sampler, self._size, self._threads = data, sampler, image_size, threads
        self._slots = slots_of(sampler.batch_size, world, rank)
        self._views, self._skip = views, skip_damaged
        self._storage: Storage = open_storage(data.location)
        self._again = lru_cache(maxsize=2)(self._fetched)  # for shards that stand in for others

    def batches(self, first: int, end: int) -> Iterator[Batch]:
        """The batches of steps first ... end - 1."""
        with (
            ThreadPoolExecutor(FETCHERS) as fetchers,
            ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,)) as decoders,
        ):
            yield from map(joined, ahead(self._submitted(fetchers, decoders, first, end)))

    def _submitted(
        self, fetchers: ThreadPoolExecutor, decoders: ThreadPoolExecutor, first: int, end: int
    ) -> "Iterator[list[Future[tuple[Sample, bool]]]]":
        """The samples of each step, on their way."""
        shards: dict[int, Future[list[Members]]] = {}
        for step, needed in self._with_shards_ahead(first, end):
            shards = {n: shards.get(n) or fetchers.submit(self._fetched, n) for n in needed}
            places = self._sampler.places(step, self._slots)
            epoch = self._sampler.epoch(step)
            pairs = zip(places.shards.tolist(), places.indices.tolist(), strict=True)
            yield [decoders.submit(self._sample, shards[s], s, i, epoch) for s, i in pairs]

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
            trouble = error.strerror or told(error)
        except Exception as error:  # tarfile and webdataset raise many kinds on damaged bytes
            trouble = told(error) if len(error.args) < 2 else str(error.args[0]).partition(" @ ")[0]  # webdataset's
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

    def _sample(self, shard: "Future[list[Members]]", number: int, index: int, epoch: int) -> tuple[Sample, bool]:
        """A sample, and whether it stands for one that cannot be read."""
        members, name = shard.result(), self._data.shards[number]
        generator = np.random.default_rng([self._sampler.seed, 2, epoch, number, index])
        if not members:  # of a whole shard others stand in, each for its own part of it
            return self._decoded(self._neighbour(number), name, index, generator)[0], True
        return self._decoded(members, name, index, generator)

    def _neighbour(self, number: int) -> list[Members]:
        """The samples of the next shard that has any. Raises UserError where none has."""
        others = range(number + 1, number + len(self._data.shards))
        for other in others:
            if members := self._again(other % len(self._data.shards)):
                return members
        raise UserError(f"{self._data.location}: none of its shards can be read; label them again")

    def _decoded(
        self, members: list[Members], name: str, index: int, generator: np.random.Generator
    ) -> tuple[Sample, bool]:
        """The sample at an index of a shard, or the next one that can be read."""
        behind = index >= len(members)  # what the shard has lost
        for further in range(len(members)):
            found = members[(index + further) % len(members)]
            try:
                sample = decoded(found, self._size, self._views, generator)
                if self._data.classes is not None and not 0 <= sample.label < self._data.classes:
                    raise ValueError(f"class {sample.label} of {self._data.classes}")
                return sample, behind or further > 0
            except Exception as error:  # decoders raise many kinds on damaged bytes
                if not self._skip:
                    raise UserError(
                        f"{self._data.location}/{name}: sample {found['__key__']!s} cannot be read: {told(error)}; "
                        "check it with python -m labeler.verify, or go on without with --skip-damaged"
                    ) from None
        raise UserError(f"{self._data.location}/{name}: none of its samples can be read; label the shard again")


def decoded(members: Members, size: int, views: Sequence[Draw], generator: np.random.Generator) -> Sample:
    """Decode a sample once, crop each view and the whole frame. Raises what decoders raise on damaged members."""
    pixels = decoded_jpeg(members["jpg"])
    crops = [draw_crop(generator, *pixels.shape[1:]) for _ in views]
    parameters = [packed(draw(generator)) for draw in views]
    return Sample(
        views=stacked([cropped(pixels, crop, size) for crop in crops]),
        clean=whole(pixels, size),
        augmentation=torch.tensor(parameters),
        attention=torch.from_numpy(decode_map(members["attn.png"]).copy()),
        gaze=decode_points(members["gaze.npy"]),
        label=int(members["cls"]) if "cls" in members else NO_CLASS,
        key=str(members["__key__"]),
    )


def ahead(steps: "Iterable[list[Future[T]]]") -> Iterator[list[T]]:
    """The results of each step, while those of the next few are made."""
    waiting: deque[list[Future[T]]] = deque()
    for futures in steps:
        waiting.append(futures)
        if len(waiting) > BATCHES_AHEAD:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


def joined(found: list[tuple[Sample, bool]]) -> Batch:
    """Samples, and whether they stand for others, -> a batch, in their order."""
    views, clean, augmentation, attention, gaze, labels, keys = zip(*(sample for sample, _ in found), strict=True)
    return Batch(
        stacked(views),
        stacked(clean),
        torch.stack(augmentation),
        torch.stack(attention),
        list(gaze),
        torch.tensor(labels),
        list(keys),
        sum(skipped for _, skipped in found),
    )
