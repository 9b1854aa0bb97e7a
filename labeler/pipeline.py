"""The labelling job on Ray Data: one row is one shard, one actor a worker; only numbers and records travel."""

import logging
import os
import time
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from common.errors import UserError, told
from common.manifest import Plan
from common.sources import open_source
from common.storage import open_storage
from labeler.config import LabelSettings
from labeler.progress import ProgressLine
from labeler.teacher.weights import TeacherSource

# glibc gives the teacher's feature maps back to the system after every layer and faults their pages in again: kept, the
# teacher's share of a shard fell from 3.0 to 2.5 s. A process reads them when it starts
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
ATTEMPTS = 3  # of a shard, within a worker; Ray itself repeats the shards of a worker that died


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


class LabelWorker:
    """One actor: it builds the teacher once and labels shard after shard."""

    def __init__(self, job: list[Any], output: str, threads: int, counter: Any) -> None:
        from labeler.shard import ShardLabeler

        plan, teacher = ray.get(job[0])
        self.counter = counter
        self.reported = 0.0
        self.labeler = ShardLabeler(plan, open_storage(output), open_source(plan.input), teacher.build(), threads)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from labeler.shard import ShardConflict

        shard, error = int(row["shard"]), ""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                record = self.labeler.label(shard, attempt, lambda done, failed: self._report(shard, done, failed))
                self.counter.report.remote(shard, record.samples + len(record.failed), len(record.failed))
                return {"shard": shard, "error": ""}
            except ShardConflict as conflict:
                return {"shard": shard, "error": str(conflict)}
            except Exception as problem:  # whatever it is, the other shards must go on
                error = f"{type(problem).__name__}: {told(problem)}"
        return {"shard": shard, "error": f"failed {ATTEMPTS} times, the last time: {error}"}

    def _report(self, shard: int, done: int, failed: int) -> None:
        """At most twice a second: each word to the counter costs a remote call."""
        if time.monotonic() - self.reported > 0.5:
            self.reported = time.monotonic()
            self.counter.report.remote(shard, done, failed)


def label_shards(
    settings: LabelSettings, output: str, plan: Plan, pending: list[int], teacher: TeacherSource
) -> dict[int, str]:
    """Label the pending shards. Returns those that failed, with the reason. Raises UserError where Ray has no room."""
    _start_ray()
    workers, gpus = _room(settings, len(pending))
    counter = ProgressCounter.remote()  # type: ignore[attr-defined]
    shards = ray.data.from_items([{"shard": shard} for shard in pending], override_num_blocks=len(pending))
    rows = shards.map(
        LabelWorker,  # type: ignore[arg-type]
        # in a list, so that a restarted actor fetches it itself
        fn_constructor_args=([ray.put((plan, teacher))], output, _threads(settings, gpus), counter),
        compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=gpus or None,
        runtime_env={"env_vars": ALLOCATOR},
    ).iter_rows()
    problems: dict[int, str] = {}
    with ProgressLine(plan, pending, lambda: ray.get(counter.total.remote())) as line:
        for row in rows:
            line.shard_done()
            if row["error"]:
                problems[row["shard"]] = row["error"]
    return problems


def _start_ray() -> None:
    """Join the cluster that the environment names, or start one here; no noise beside our own progress line."""
    # Ray's core prints an error for every actor of Ray Data (ray#53727), which means nothing for this job
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _room(settings: LabelSettings, pending: int) -> tuple[int, float]:
    """How many workers, with how many GPUs each. Raises UserError where the cluster can never give them."""
    resources = ray.cluster_resources()
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    each = settings.gpus_per_worker if settings.gpus_per_worker is not None else min(1.0, gpus)
    if each > gpus:
        raise UserError(f"--gpus-per-worker {each:g}: this cluster has {gpus:g} GPUs; ask for fewer, or 0 for the CPU")
    if cpus < 1:
        raise UserError("this cluster has no CPU to run a worker on")
    room = int(gpus / each) if each else int(cpus)
    return min(settings.workers or room, room, pending), each


def _threads(settings: LabelSettings, gpus: float) -> int:
    """A GPU is fed by many decoding threads; beside the teacher on a CPU core, two keep it busy."""
    return settings.threads_per_worker or (max(4, min(16, os.cpu_count() or 4)) if gpus else 2)
