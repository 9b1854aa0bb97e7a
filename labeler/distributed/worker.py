"""The workers of a labeling job, which are Ray actors that label shard after shard, and the counter they report to."""

import os
import time
from functools import cached_property, partial
from typing import Any, NamedTuple

import ray
import torch

from common.cluster import gpus_of_this_machine
from common.errors import UserError, describe_error
from common.manifest import Plan, record_name
from common.parallel import available_cores, default_decoders
from common.sources import open_source
from common.storage import Storage, open_storage
from common.text import pluralize
from labeler.distributed.metrics import WorkerMetrics
from labeler.labeling.gpu_backend import UNPLANNED_BATCH_SIZE
from labeler.labeling.hardware import make_backend
from labeler.labeling.shard import ShardLabeler
from labeler.labeling.time_limit import time_limit
from labeler.teacher.weights import TeacherSource

REPORT_SECONDS = 0.5  # between two reports of a worker, as each costs a remote call
PAUSE_AFTER_FAILURE = 3.0  # seconds: a worker on a broken machine must not take all shards from the healthy ones


class WorkerSpec(NamedTuple):
    """Everything a worker needs to label the shards of a plan."""

    plan: Plan
    output: str
    teacher: TeacherSource
    threads: int | None  # that fetch, decode and encode; None derives their number from the worker's machine
    gpus: float  # 0, a fraction, or several
    max_starts: int  # the run ends if more shards than this were started and none has ended
    batch_timeout: float  # seconds

    def count_threads(self, gpus_of_machine: float) -> int:
        """Return how many threads fetch, decode and encode in a worker on this machine, which has this many GPUs.

        By default a worker with a share of the machine's GPUs gets that share of the cores, but 2 to 16 threads.
        """
        if self.threads:
            return self.threads
        if not self.gpus:
            return default_decoders(gpus=0)
        return max(2, min(16, round(available_cores() * self.gpus / max(gpus_of_machine, self.gpus))))


class ProgressCounter:
    """Counter of the shards and images of a run, used as a Ray actor: workers report to it, and the driver reads it."""

    def __init__(self) -> None:
        self.images: dict[int, tuple[int, int]] = {}  # shard: (images done, how many of them failed)
        self.started: set[int] = set()  # shards of the current pass
        self.deaths: dict[int, str] = {}  # why workers ended themselves, by shard, in the current pass
        self.starts = self.ends = 0  # of all passes

    def start_pass(self) -> None:
        """Clear what belongs to a pass. The counts of images are not reset."""
        self.started, self.deaths = set(), {}

    def start_shard(self, shard: int) -> int:
        """Count a shard that a worker starts. Returns the starts so far if no shard has ended yet, else 0."""
        self.started.add(shard)
        self.starts += 1
        self.images[shard] = (0, 0)
        return 0 if self.ends else self.starts

    def report_images(self, shard: int, done: int, failed: int) -> None:
        """Set the images done of a shard, and how many of them failed."""
        self.images[shard] = (done, failed)

    def end_shard(self) -> None:
        """Count a shard that ended, by a commit or by an error, without the death of its worker."""
        self.ends += 1

    def report_death(self, shard: int, reason: str) -> None:
        """Store why a worker is about to end itself in the middle of a shard."""
        self.deaths[shard] = reason

    def count_images(self) -> tuple[int, int]:
        """Return the images done over all shards of the run, and how many of them failed."""
        return sum(done for done, _ in self.images.values()), sum(failed for _, failed in self.images.values())

    def started_shards(self) -> set[int]:
        """Return the shards started in the current pass."""
        return self.started

    def reported_deaths(self) -> dict[int, str]:
        """Return why workers ended themselves in the current pass, by shard."""
        return self.deaths


class LabelWorker:
    """Callable class for Ray Data's `map`: it builds the teacher once and labels one shard per row.

    The constructor only stores its arguments, because Ray endlessly recreates an actor whose constructor fails.
    Everything that can fail happens in the first call.
    """

    def __init__(self, spec: list[Any], counter: Any) -> None:
        """Store the reference to a WorkerSpec, in a list of one, and the handle of the ProgressCounter."""
        self.spec_reference = spec[0]
        self.counter = counter
        self.last_report = 0.0

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Label a shard. Returns its error, empty on success, whether that error must end the run, and a warning."""
        shard, error, warning = int(row["shard"]), "", ""
        self.shard = shard
        starts = ray.get(self.counter.start_shard.remote(shard))
        if starts > self._spec.max_starts:
            reported = ray.get(self.counter.reported_deaths.remote()).values()
            reason = next(iter(reported), "out of memory? a teacher that crashes?")
            error = f"every worker died with its first shard ({reason})"
            return {"shard": shard, "error": error, "fatal": True, "warning": ""}
        try:
            if not self._storage.exists(record_name(shard)):  # another job on this output may have committed it
                warning = self._labeler.backend.warning
                record = self._labeler.label(shard, int(row["attempt"]), lambda *images: self._report(shard, *images))
                self.counter.report_images.remote(shard, record.samples + len(record.failed), len(record.failed))
                self._metrics.count_shard(record)
        except Exception as problem:  # a shard that fails must not prevent the labeling of others
            error = (
                describe_error(problem)
                if isinstance(problem, UserError)
                else f"{type(problem).__name__}: {describe_error(problem)}"
            )
            if isinstance(problem, torch.OutOfMemoryError):
                error += self._advise_on_memory()
            time.sleep(PAUSE_AFTER_FAILURE)
        self.counter.end_shard.remote()
        return {"shard": shard, "error": error, "fatal": False, "warning": warning}

    def _advise_on_memory(self) -> str:
        batch = pluralize(self._spec.plan.config.batch_size or UNPLANNED_BATCH_SIZE, "image")
        return (
            f"; the GPU's memory does not hold a batch of {batch} for each worker that shares it: let fewer share it "
            "(--gpus-per-worker 1), or start a new data set with a smaller --batch-size"
        )

    def _report(self, shard: int, done: int, failed: int) -> None:
        if time.monotonic() - self.last_report > REPORT_SECONDS:
            self.last_report = time.monotonic()
            self.counter.report_images.remote(shard, done, failed)

    def _end_process(self) -> None:
        """End this process because a batch takes too long; Ray starts another worker."""
        limit = self._spec.batch_timeout
        reason = f"the teacher took longer than {limit:g} s for a batch (--batch-timeout)"
        try:
            ray.get(self.counter.report_death.remote(self.shard, reason))
        finally:
            os._exit(1)

    @cached_property
    def _spec(self) -> WorkerSpec:
        spec: WorkerSpec = ray.get(self.spec_reference)
        return spec

    @cached_property
    def _storage(self) -> Storage:
        return open_storage(self._spec.output)

    @cached_property
    def _metrics(self) -> WorkerMetrics:
        return WorkerMetrics(self._spec.output)

    @cached_property
    def _labeler(self) -> ShardLabeler:
        spec = self._spec
        if ray.get_gpu_ids() and not torch.cuda.is_available():
            raise RuntimeError("Ray gave this worker a GPU that PyTorch cannot use: is its driver too old?")
        # Ray does not hide the GPUs of a machine from workers that have no share of them
        backend = make_backend(spec.teacher.build(), spec.plan.config, use_gpu=spec.gpus > 0)
        source, threads = open_source(spec.plan.input), spec.count_threads(gpus_of_this_machine())
        watch = partial(time_limit, spec.batch_timeout, self._end_process)
        return ShardLabeler(spec.plan, self._storage, source, backend, threads, watch)
