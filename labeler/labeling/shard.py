"""One shard: fetch, decode, teacher, gaze points, encode, tar, commit. No Ray here: a plain process can do it."""

import hashlib
import itertools
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor, nn

from common.errors import ImageFailure
from common.images import StoredImage, read_photograph
from common.launch import default_device
from common.manifest import Failure, Plan, ShardRecord, record_name, sha256, shard_name
from common.parallel import in_order
from common.shards import Sample, SampleInfo, ShardWriter
from common.sources import Source
from common.sources.listing import class_folder
from common.storage import Storage
from labeler.labeling.label import Maps, label_image, predict_maps, to_teacher_input
from labeler.planning.listing import ListingReader, PlannedImage

CPU_BATCH, GPU_BATCH = 1, 32  # fixed by the kind of hardware, never by the number of workers: they touch the last bit
LABEL_BYTES = 40_000  # the map, points and tar headers beside each image, generously
OnProgress = Callable[[int, int], None]


class ShardConflict(Exception):
    """A shard of this name exists with other bytes: two different jobs write to one output."""


class NoSpace(Exception):
    """The disk of this machine is too full for a shard."""


class Prepared(NamedTuple):
    """An image on its way: fetched, decoded, and resized for the teacher."""

    image: PlannedImage
    stored: StoredImage
    source_sha256: str
    picture: Tensor
    seconds: Counter[str]


class Finished(NamedTuple):
    """An image's files, ready for the tar."""

    key: str
    members: dict[str, bytes]
    seconds: Counter[str]


class ShardLabeler:
    """What a worker keeps between shards: the teacher on its device, and threads that fetch, decode and encode.

    Memory stays bounded by the images in flight (`ahead`), whatever the shard's length; the tar grows on disk.
    """

    def __init__(self, plan: Plan, storage: Storage, source: Source, teacher: nn.Module, threads: int) -> None:
        self.plan = plan
        self.config = plan.config
        self.storage = storage
        self.listing = ListingReader(storage, plan)
        self.source = source
        self.device = default_device()
        self.teacher = teacher.to(self.device)
        self.pool = ThreadPoolExecutor(threads)
        self.batch_size = self.config.batch_size or (CPU_BATCH if self.device.type == "cpu" else GPU_BATCH)
        self.ahead = 2 * max(self.batch_size, threads)
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # one core a worker; and sums do not depend on the machine's core count
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True

    def label(self, shard: int, attempt: int = 1, progress: OnProgress = lambda done, failed: None) -> ShardRecord:
        """Make a shard and commit it with its record. Calls `progress(images done, of them failed)` on the way.

        Raises ShardConflict where another shard has its name; the same bytes there are a success.
        """
        images = self.listing.shard(shard)
        self._check_scratch(images)
        seconds: Counter[str] = Counter()
        failed: list[Failure] = []
        with self.storage.scratch() as file, _timed(seconds, "total"):
            writer = ShardWriter(file)
            for results in self._finished(images, seconds):
                with _timed(seconds, "write"):
                    for result in results:
                        if isinstance(result, Failure):
                            failed.append(result)
                            continue
                        seconds.update(result.seconds)
                        writer.add(result.key, result.members)
                progress(writer.samples + len(failed), len(failed))
            writer.close()
            with _timed(seconds, "commit"):
                if not self.storage.put_file(shard_name(shard), file):
                    self._compare(shard_name(shard), writer.sha256)
        record = ShardRecord(
            shard=shard_name(shard),
            sha256=writer.sha256,
            bytes=writer.bytes,
            samples=writer.samples,
            failures=dict(sorted(Counter(failure.reason for failure in failed).items())),
            failed=sorted(failed, key=lambda failure: failure.key),
            seconds={phase: round(value, 3) for phase, value in sorted(seconds.items())},
            host=socket.gethostname(),
            device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            attempt=attempt,
        )
        self.storage.put(record_name(shard), record.to_json())
        return record

    def _check_scratch(self, images: list[PlannedImage]) -> None:
        """Better to learn of a full disk before a minute of work than after it."""
        needed = shard_bytes(len(images), sum(image.ref.size for image in images), self.config.include_images)
        free = self.storage.scratch_bytes()
        if free < needed:
            raise NoSpace(
                f"a shard needs about {needed:,} bytes of scratch space on {socket.gethostname()}, {free:,} are free: "
                "make room there, or let TMPDIR name a larger disk"
            )

    def _finished(self, images: list[PlannedImage], seconds: Counter[str]) -> Iterator[list[Finished | Failure]]:
        """Batches of finished images in the plan's order; the teacher runs while threads prepare and finish others."""
        finishing: deque[list[Future[Finished | Failure] | Failure]] = deque()
        prepared = in_order(self.pool, self._prepare, images, self.ahead)
        while batch := self._next_batch(prepared, seconds):
            usable = [item for item in batch if isinstance(item, Prepared)]
            results: list[Future[Finished | Failure] | Failure] = [b for b in batch if isinstance(b, Failure)]
            if usable:
                with _timed(seconds, "teacher"):
                    pictures = torch.stack([item.picture for item in usable])
                    maps = predict_maps(self.teacher, pictures, self.config.map_size, self.device)  # type: ignore[arg-type]
                results += [self.pool.submit(self._finish, item, maps, i) for i, item in enumerate(usable)]
            finishing.append(results)
            if len(finishing) > 1:
                yield [_result(item) for item in finishing.popleft()]
        while finishing:
            yield [_result(item) for item in finishing.popleft()]

    def _next_batch(self, prepared: Iterator[Prepared | Failure], seconds: Counter[str]) -> list[Prepared | Failure]:
        """Composed by the plan's order, so that a failed image shifts nobody else's batch."""
        with _timed(seconds, "wait"):
            return list(itertools.islice(prepared, self.batch_size))

    def _prepare(self, image: PlannedImage) -> Prepared | Failure:
        seconds: Counter[str] = Counter()
        try:
            with _timed(seconds, "fetch"):
                data = self.source.read(image.ref)
            with _timed(seconds, "decode"):
                pixels, stored = read_photograph(data, self.config.max_pixels, self.config.min_side)
                picture = to_teacher_input(pixels, stored.orientation)
        except ImageFailure as error:
            return _failure(image, error)
        return Prepared(image, stored, sha256(data), picture, seconds)

    def _finish(self, item: Prepared, maps: Maps, index: int) -> Finished | Failure:
        config, stored = self.config, item.stored
        try:
            with _timed(item.seconds, "encode"):
                label = label_image(maps, index, stored.orientation, config.gaze_threshold, config.max_gaze_points)
                info = SampleInfo(
                    source=item.image.ref.uri,
                    wnid=class_folder(item.image.ref.uri) or "",
                    width=stored.width,
                    height=stored.height,
                    exif_orientation=stored.orientation,
                    source_sha256=item.source_sha256,
                    reencoded_from=stored.reencoded_from,
                    teacher=self.plan.teacher.id,
                    map_max=label.map_max,
                    gaze_points=len(label.gaze),
                )
                jpeg = stored.jpeg if config.include_images else None
                sample = Sample(item.image.key, jpeg, item.image.class_index, info, label.attention, label.gaze)
                members = sample.members()
        except ImageFailure as error:
            return _failure(item.image, error)
        return Finished(item.image.key, members, item.seconds)

    def _compare(self, name: str, checksum: str) -> None:
        """Another run committed this shard first: the same bytes are fine."""
        with self.storage.open(name) as file:
            found = _file_sha256(file)
        if found != checksum:
            raise ShardConflict(
                f"{name} exists with checksum {found[:12]}, this run made {checksum[:12]}: another job writes to this "
                "output, or the shard was made on another kind of hardware. Nothing was overwritten"
            )


def shard_bytes(images: int, source_bytes: int, include_images: bool) -> int:
    """The size of a shard of so many images, generously."""
    return images * LABEL_BYTES + (source_bytes if include_images else 0)


class _timed:
    """Add the time inside the `with` block to a phase."""

    def __init__(self, seconds: Counter[str], phase: str) -> None:
        self.seconds = seconds
        self.phase = phase

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.seconds[self.phase] += time.perf_counter() - self.start  # type: ignore[assignment]


def _result(item: Future[Finished | Failure] | Failure) -> Finished | Failure:
    return item if isinstance(item, Failure) else item.result()


def _failure(image: PlannedImage, error: ImageFailure) -> Failure:
    return Failure(key=image.key, uri=image.ref.uri, reason=error.reason, message=error.message)


def _file_sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
