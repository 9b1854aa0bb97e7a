"""A worker of the labelling job: a Ray actor that labels shard after shard and says how far it is."""

import time
from typing import Any, NamedTuple

import ray
import torch

from common.errors import told
from common.manifest import Plan, record_name
from common.sources import open_source
from common.storage import open_storage
from labeler.metrics import WorkerMetrics
from labeler.teacher.weights import TeacherSource

PAUSE_AFTER_FAILURE = 5.0  # seconds: a worker on a broken machine must not take all shards from the sound ones


class Job(NamedTuple):
    """What every worker of a plan needs."""

    plan: Plan
    output: str
    teacher: TeacherSource
    threads: int


@ray.remote(num_cpus=0)
class ProgressCounter:
    """Where workers say how far they are in their shards: {shard: (images done, of them failed)}."""

    def __init__(self) -> None:
        self.shards: dict[int, tuple[int, int]] = {}

    def report(self, shard: int, done: int, failed: int) -> None:
        """A worker's word; a repeated shard starts again at 0."""
        self.shards[shard] = (done, failed)

    def total(self) -> tuple[int, int]:
        """Images done and failed over all shards of this run."""
        return sum(done for done, _ in self.shards.values()), sum(failed for _, failed in self.shards.values())

    def begin_pass(self) -> None:
        """Forget nothing of the images, but which shards were begun."""
        self.begun: set[int] = set()

    def begin(self, shard: int) -> None:
        """A worker begins with a shard."""
        self.begun.add(shard)
        self.shards[shard] = (0, 0)

    def begun_shards(self) -> set[int]:
        """Shards begun in this pass."""
        return self.begun


class LabelWorker:
    """One actor: it builds the teacher once and labels shard after shard."""

    def __init__(self, job: list[Any], counter: Any) -> None:
        from labeler.shard import ShardLabeler

        plan, output, teacher, threads = ray.get(job[0])
        if ray.get_gpu_ids() and not torch.cuda.is_available():
            raise RuntimeError(
                "Ray gave this worker a GPU that PyTorch cannot use: is its driver too old?"
            )
        self.counter = counter
        self.reported = 0.0
        self.storage = open_storage(output)
        self.metrics = WorkerMetrics(output)
        self.labeler = ShardLabeler(plan, self.storage, open_source(plan.input), teacher.build(), threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard, error = int(row["shard"]), ""
        ray.get(self.counter.begin.remote(shard))
        try:
            if not self.storage.exists(record_name(shard)):  # else another job on this output was first
                record = self.labeler.label(shard, int(row["attempt"]), lambda *done: self._report(shard, *done))
                self.counter.report.remote(shard, record.samples + len(record.failed), len(record.failed))
                self.metrics.committed(record)
        except Exception as problem:  # whatever it is, the other shards must go on
            error = f"{type(problem).__name__}: {told(problem)}"
            time.sleep(PAUSE_AFTER_FAILURE)
        return {"shard": shard, "error": error}

    def _report(self, shard: int, done: int, failed: int) -> None:
        """At most twice a second: each word to the counter costs a remote call."""
        if time.monotonic() - self.reported > 0.5:
            self.reported = time.monotonic()
            self.counter.report.remote(shard, done, failed)
