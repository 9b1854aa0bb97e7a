"""The labelling job on Ray Data: one row is one shard, one actor a worker; only numbers and records travel.

The work is done in passes. A shard that fails, or whose worker dies, is left to the next pass, so that nothing waits
for a machine that does not come back; after `ATTEMPTS` failures it is set aside.
"""

import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.errors import UserError, told
from common.manifest import Plan, record_name
from common.sources import open_source
from common.storage import open_storage
from labeler.config import WorkSettings
from labeler.metrics import JobMetrics, WorkerMetrics
from labeler.progress import Progress
from labeler.teacher.weights import TeacherSource

# glibc gives the teacher's feature maps back to the system after every layer and faults their pages in again: kept, the
# teacher's share of a shard fell from 3.0 to 2.5 s. A process reads them when it starts
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
# of the driver's environment, what workers on other machines need too; credentials never travel
FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "IMAGENET_ATTN_SSE",
    "IMAGENET_ATTN_SSE_KMS_KEY_ID",
)
ATTEMPTS = 3  # of a shard
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


def label_shards(
    settings: WorkSettings, output: str, plan: Plan, pending: list[int], teacher: TeacherSource, progress: Progress
) -> dict[int, str]:
    """Label the pending shards. Returns those set aside, with the reason.

    Raises UserError where Ray has no room, or where no worker can start.
    """
    start_ray()
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    counter = ProgressCounter.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    metrics = JobMetrics(output, plan)
    failures: Counter[int] = Counter()
    set_aside: dict[int, str] = {}
    idle_passes = 0
    with progress.watching(lambda: ray.get(counter.total.remote())):
        while pending:
            workers, gpus = room(settings, len(pending))
            progress.workers = max(progress.workers, workers)
            job = Job(plan, output, teacher, _threads(settings, gpus))
            ray.get(counter.begin_pass.remote())
            attempts = {shard: failures[shard] + 1 for shard in pending}
            outcomes = dict(_one_pass(job, attempts, workers, gpus, counter, progress))
            begun = ray.get(counter.begun_shards.remote())
            for shard in pending:
                if shard not in outcomes and shard in begun:
                    outcomes[shard] = "its worker died while it made this shard (out of memory?)"
                if outcomes.get(shard):
                    failures[shard] += 1
                if failures[shard] >= ATTEMPTS:
                    set_aside[shard] = f"failed {ATTEMPTS} times, the last time: {outcomes[shard]}"
                    metrics.set_aside()
            pending = [shard for shard in pending if outcomes.get(shard, "lost") and shard not in set_aside]
            idle_passes = 0 if outcomes else idle_passes + 1
            if idle_passes >= ATTEMPTS:
                raise UserError("the workers die before they begin: see Ray's logs of them; nothing is lost")
    return set_aside


def _one_pass(
    job: Job, attempts: dict[int, int], workers: int, gpus: float, counter: Any, progress: Progress
) -> Iterator[tuple[int, str]]:
    """Give every shard to a worker once. Yields shard and error, empty where it is committed; nothing of lost ones."""
    rows = [{"shard": shard, "attempt": attempt} for shard, attempt in attempts.items()]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        LabelWorker,  # type: ignore[arg-type]
        fn_constructor_args=([ray.put(job)], counter),  # in a list, so that a restarted actor fetches it itself
        compute=ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=gpus or None,
        max_task_retries=0,  # has no other name yet: Ray warns that it will get one
        runtime_env={"env_vars": ALLOCATOR | {name: os.environ[name] for name in FORWARDED if name in os.environ}},
    )
    try:
        for row in results.iter_rows():
            if row["error"]:
                progress.tell(f"shard {row['shard']}: {row['error']}")
            else:
                progress.shard_done()
            yield row["shard"], row["error"]
    except RayError as error:
        raise UserError(f"the workers cannot work: {_cause(error)}") from None


def _cause(error: BaseException) -> str:
    """The innermost reason of an error that Ray has wrapped."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def start_ray() -> None:
    """Join the cluster that the environment names, or start one here; no noise beside our own progress line."""
    # Ray's core prints an error for every actor of Ray Data (ray#53727), which means nothing for this job
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # the shards of a dead worker are left to the next pass


def room(settings: WorkSettings, pending: int) -> tuple[int, float]:
    """How many workers, with how many GPUs each. Raises UserError where the cluster does not give them in time."""
    deadline = time.monotonic() + settings.wait_for_machines
    while True:
        resources = ray.cluster_resources()
        gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
        each = settings.gpus_per_worker if settings.gpus_per_worker is not None else min(1.0, gpus)
        fits = min(int(cpus), int(gpus / each)) if each else int(cpus)
        if fits >= 1:
            return min(settings.workers or fits, fits, pending), each
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    waited = f"; waited {settings.wait_for_machines:g} s, --wait-for-machines sets how long"
    if cpus < 1:
        raise UserError(f"this cluster has no CPU to run a worker on{waited}")
    raise UserError(
        f"--gpus-per-worker {each:g}: this cluster has {gpus:g} GPUs; ask for fewer, or 0 for the CPU{waited}"
    )


def _threads(settings: WorkSettings, gpus: float) -> int:
    """A GPU is fed by many decoding threads; beside the teacher on a CPU core, two keep it busy."""
    return settings.threads_per_worker or (max(4, min(16, os.cpu_count() or 4)) if gpus else 2)
