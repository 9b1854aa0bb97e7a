"""A worker of the labelling job: a Ray actor that labels shard after shard and says how far it is."""

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
import torch

from common.errors import UserError, describe_error
from common.manifest import Plan, record_name
from common.sources import open_source
from common.storage import Storage, open_storage
from labeler.distributed.metrics import WorkerMetrics
from labeler.teacher.weights import TeacherSource

if TYPE_CHECKING:
    from labeler.labeling.shard import ShardLabeler

PAUSE_AFTER_FAILURE = 3.0  # seconds: a worker on a broken machine must not take all shards from the sound ones


class Job(NamedTuple):
    """What every worker of a plan needs."""

    plan: Plan
    output: str
    teacher: TeacherSource
    threads: int
    patience: int  # shards begun, none of them ended, until it is hopeless


@ray.remote(num_cpus=0)
class ProgressCounter:
    """Where workers say how far they are in their shards: {shard: (images done, of them failed)}."""

    def __init__(self) -> None:
        self.shards: dict[int, tuple[int, int]] = {}
        self.begun: set[int] = set()
        self.begins = self.ends = 0

    def begin_pass(self) -> None:
        """Forget which shards were begun; the images still count."""
        self.begun = set()

    def begin(self, shard: int) -> int:
        """A worker begins with a shard. Returns how often that has happened in this run, if none has ended yet."""
        self.begun.add(shard)
        self.begins += 1
        self.shards[shard] = (0, 0)
        return 0 if self.ends else self.begins

    def report(self, shard: int, done: int, failed: int) -> None:
        """A worker's word; a repeated shard starts again at 0."""
        self.shards[shard] = (done, failed)

    def end(self) -> None:
        """A worker is through with a shard, and alive."""
        self.ends += 1

    def total(self) -> tuple[int, int]:
        """Images done and failed over all shards of this run."""
        return sum(done for done, _ in self.shards.values()), sum(failed for _, failed in self.shards.values())

    def begun_shards(self) -> set[int]:
        """Shards begun in this pass."""
        return self.begun


class LabelWorker:
    """One actor: it builds the teacher once, when it has its first shard, and labels shard after shard.

    Nothing that can fail happens while Ray makes the actor: Ray would make it anew for ever.
    """

    def __init__(self, job: list[Any], counter: Any) -> None:
        self.job = job
        self.counter = counter
        self.reported = 0.0

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard, error = int(row["shard"]), ""
        begun_in_vain = ray.get(self.counter.begin.remote(shard))
        if begun_in_vain > self._fetched_job.patience:
            error = "every worker died with its first shard (out of memory? a teacher that crashes?)"
            return {"shard": shard, "error": error, "hopeless": True}
        try:
            if not self._storage.exists(record_name(shard)):  # else another job on this output was first
                record = self._labeler.label(shard, int(row["attempt"]), lambda *done: self._report(shard, *done))
                self.counter.report.remote(shard, record.samples + len(record.failed), len(record.failed))
                self._metrics.committed(record)
        except Exception as problem:  # whatever it is, the other shards must go on
            error = (
                describe_error(problem)
                if isinstance(problem, UserError)
                else f"{type(problem).__name__}: {describe_error(problem)}"
            )
            if isinstance(problem, torch.OutOfMemoryError):
                error += "; let fewer workers share a GPU: --gpus-per-worker 1"
            time.sleep(PAUSE_AFTER_FAILURE)
        self.counter.end.remote()
        return {"shard": shard, "error": error, "hopeless": False}

    def _report(self, shard: int, done: int, failed: int) -> None:
        """At most twice a second: each word to the counter costs a remote call."""
        if time.monotonic() - self.reported > 0.5:
            self.reported = time.monotonic()
            self.counter.report.remote(shard, done, failed)

    @cached_property
    def _fetched_job(self) -> Job:
        job: Job = ray.get(self.job[0])
        return job

    @cached_property
    def _storage(self) -> Storage:
        return open_storage(self._fetched_job.output)

    @cached_property
    def _metrics(self) -> WorkerMetrics:
        return WorkerMetrics(self._fetched_job.output)

    @cached_property
    def _labeler(self) -> "ShardLabeler":
        from labeler.labeling.shard import ShardLabeler

        job = self._fetched_job
        if ray.get_gpu_ids() and not torch.cuda.is_available():
            raise RuntimeError("Ray gave this worker a GPU that PyTorch cannot use: is its driver too old?")
        return ShardLabeler(job.plan, self._storage, open_source(job.plan.input), job.teacher.build(), job.threads)
