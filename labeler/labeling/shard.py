"""Label one shard in a plain process, without Ray: from planned images to a committed tar file and its record."""

import hashlib
import itertools
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch

from common.errors import ImageFailure, Reason
from common.manifest import Failure, Plan, ShardRecord, record_name, shard_name
from common.parallel import in_order
from common.shards import ShardWriter
from common.sources import Source
from common.storage import Storage
from labeler.labeling.backend import Backend
from labeler.labeling.encode import EncodedSample, encode_sample
from labeler.labeling.fetch import FetchedImage, fetch_image
from labeler.labeling.label import Label
from labeler.labeling.timing import PhaseTimer
from labeler.planning.listing import ListingReader, PlannedImage
from labeler.planning.space import estimate_shard_bytes, explain_full_scratch_space
from labeler.publishing.index_parts import save_part
from labeler.publishing.index_rows import ShardRows

READ_SIZE = 1 << 20  # bytes read at once when a committed shard is compared
UNREADABLE_REASONS = (Reason.MISSING, Reason.UNREADABLE)
MIN_UNREADABLE_IMAGES = 10  # a shard of at least so many images that all fail for these reasons is not committed

ReportProgress = Callable[[int, int], None]  # called with the number of images done, and how many of those failed


class ShardConflict(Exception):
    """A shard of this name exists with other bytes: two different jobs write to one output."""


class NoSpace(Exception):
    """This machine has too little scratch space for a shard."""


class UnreadableInput(Exception):
    """This machine can read no image of a shard, probably because the input is not mounted there."""


class ShardLabeler:
    """Labeler of the shards of a plan, with a backend that runs the teacher, and a pool of threads.

    Threads fetch, load and encode images while the calling thread runs the teacher. At most `ahead` images wait for the
    teacher, and samples are written to a scratch file, so memory does not depend on the number of images in a shard.
    """

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        source: Source,
        backend: Backend,
        threads: int,
        watch: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Prepare to label shards of `plan`. The backend predicts each batch in a context that `watch` returns."""
        self.plan = plan
        self.storage = storage
        self.listing = ListingReader(storage, plan)
        self.source = source
        self.backend = backend
        self.pool = ThreadPoolExecutor(threads)
        self.watch = watch
        self.ahead = 2 * max(backend.batch_size, threads)

    def label(self, shard: int, attempt: int = 1, progress: ReportProgress = lambda done, failed: None) -> ShardRecord:
        """Label a shard and commit its tar, its part of the index, and then its record, which is returned.

        `progress` is called after each batch. An image that cannot be labeled becomes a failure in the record. If the
        shard exists with the same bytes, it counts as committed. Raises ShardConflict if it exists with other bytes,
        NoSpace if the scratch space does not suffice, UnreadableInput if no image can be read, and passes on the errors
        of the teacher and the storage; then no record is written.
        """
        images = self.listing.shard(shard)
        self._check_scratch_space(images)
        timer = PhaseTimer()
        failed: list[Failure] = []
        with self.storage.scratch() as file, timer.measure("total"):
            writer, rows = ShardWriter(file), ShardRows(shard_name(shard))
            for results in self._label_images(images, timer):
                with timer.measure("write"):
                    for result in results:
                        if isinstance(result, Failure):
                            failed.append(result)
                        else:
                            timer.add(result.timer)
                            rows.add(result.indexed, writer.add(result.key, result.members))
                progress(writer.samples + len(failed), len(failed))
            self._check_input(images, failed)
            writer.close()
            with timer.measure("commit"):
                if not self.storage.put_file(shard_name(shard), file):
                    self._check_same_bytes(shard_name(shard), writer.sha256)
                save_part(self.storage, rows, writer.sha256)
        record = ShardRecord(
            shard=shard_name(shard),
            sha256=writer.sha256,
            bytes=writer.bytes,
            samples=writer.samples,
            failures=dict(sorted(Counter(failure.reason for failure in failed).items())),
            failed=sorted(failed, key=lambda failure: failure.key),
            seconds=timer.rounded(),
            host=socket.gethostname(),
            device=torch.cuda.get_device_name() if self.backend.device.type == "cuda" else "cpu",
            attempt=attempt,
        )
        self.storage.put(record_name(shard), record.to_json())
        return record

    def _label_images(self, images: list[PlannedImage], timer: PhaseTimer) -> Iterator[list[EncodedSample | Failure]]:
        """Yield the results of each batch, its samples in the order of the plan.

        While the backend runs the teacher on a batch, threads encode the batch before it and load the images after it.
        """
        encoding: deque[list[Future[EncodedSample | Failure] | Failure]] = deque()
        fetched = in_order(self.pool, self._fetch, images, self.ahead)
        while batch := self._next_batch(fetched, timer):
            usable = [image for image in batch if isinstance(image, FetchedImage)]
            results: list[Future[EncodedSample | Failure] | Failure] = [f for f in batch if isinstance(f, Failure)]
            if usable:
                with self.watch():
                    labels = self.backend.predict([image.loaded for image in usable], timer)
                pairs = zip(usable, labels, strict=True)
                results += [self.pool.submit(self._encode, image, make_label) for image, make_label in pairs]
            encoding.append(results)
            if len(encoding) > 1:
                yield _wait_for(encoding.popleft(), timer)
        while encoding:
            yield _wait_for(encoding.popleft(), timer)

    def _next_batch(self, fetched: Iterator[FetchedImage | Failure], timer: PhaseTimer) -> list[FetchedImage | Failure]:
        """Take the next images of the plan. Failures count, so a failed image does not shift the batches after it."""
        with timer.measure("wait"):
            return list(itertools.islice(fetched, self.backend.batch_size))

    def _fetch(self, planned: PlannedImage) -> FetchedImage | Failure:
        try:
            return fetch_image(planned, self.source, self.backend)
        except ImageFailure as error:
            return _to_failure(planned, error)

    def _encode(self, image: FetchedImage, make_label: Callable[[], Label]) -> EncodedSample | Failure:
        try:
            return encode_sample(image, make_label, self.plan)
        except ImageFailure as error:
            return _to_failure(image.planned, error)

    def _check_scratch_space(self, images: list[PlannedImage]) -> None:
        """Raise NoSpace if the scratch space does not suffice, before any work is done."""
        source_bytes = sum(image.ref.size for image in images)
        needed = estimate_shard_bytes(len(images), source_bytes, self.plan.config.include_images)
        free = self.storage.scratch_bytes()
        if free < needed:
            raise NoSpace(explain_full_scratch_space(self.storage, needed, free))

    def _check_input(self, images: list[PlannedImage], failed: list[Failure]) -> None:
        """Raise UnreadableInput if no image of a shard can be read, as on a machine that has not mounted the input."""
        unreadable = [failure for failure in failed if failure.reason in UNREADABLE_REASONS]
        if len(unreadable) == len(images) >= MIN_UNREADABLE_IMAGES:
            first = unreadable[0]
            raise UnreadableInput(
                f"none of its {len(images):,} images could be read on {socket.gethostname()}; the first one is "
                f"{first.reason} ({first.uri}: {first.message}). Check that {self.plan.input} can be read there: "
                "is it mounted?"
            )

    def _check_same_bytes(self, name: str, expected: str) -> None:
        """Raise ShardConflict unless the committed shard, perhaps that of a parallel run, has the expected checksum."""
        digest = hashlib.sha256()
        with self.storage.open(name) as file:
            while block := file.read(READ_SIZE):
                digest.update(block)
        found = digest.hexdigest()
        if found != expected:
            raise ShardConflict(
                f"{name} exists with checksum {found[:12]}, this run made {expected[:12]}: another job writes to this "
                "output, or the shard was made on another kind of hardware. Nothing was overwritten. If no other job "
                f"is running, delete {name}, which is not published yet, and run the same command again"
            )


def _wait_for(
    items: list[Future[EncodedSample | Failure] | Failure], timer: PhaseTimer
) -> list[EncodedSample | Failure]:
    with timer.measure("wait_encode"):
        return [item if isinstance(item, Failure) else item.result() for item in items]


def _to_failure(planned: PlannedImage, error: ImageFailure) -> Failure:
    return Failure(key=planned.key, uri=planned.ref.uri, reason=error.reason, message=error.message)
