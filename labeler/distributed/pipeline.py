"""The labelling job on Ray Data: one row is one shard, one actor a worker; only numbers and records travel.

The work is done in passes. A shard that fails, or whose worker dies, is left to the next pass, so that nothing waits
for a machine that does not come back; after `ATTEMPTS` failures it is set aside.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.cluster import innermost, worker_environment
from common.errors import UserError
from common.manifest import Plan, shard_name
from labeler.config import WorkSettings
from labeler.distributed.metrics import JobMetrics
from labeler.distributed.progress import ProgressMonitor
from labeler.distributed.resources import allocate_workers, start_ray, threads_per_worker
from labeler.distributed.worker import Job, LabelWorker, ProgressCounter
from labeler.teacher.weights import TeacherSource

ATTEMPTS = 3  # of a shard
FAILURES_IN_A_ROW = 10  # of shards tried for the first time, at least, until it cannot be the shards


def label_shards(
    settings: WorkSettings,
    output: str,
    plan: Plan,
    pending: list[int],
    teacher: TeacherSource,
    progress: ProgressMonitor,
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
            workers, gpus = allocate_workers(settings, len(pending))
            progress.workers = max(progress.workers, workers)
            most = max(workers, min(settings.workers or 0, len(pending)))  # when more machines join
            job = Job(plan, output, teacher, threads_per_worker(settings, gpus), patience=2 * most + 2)
            ray.get(counter.begin_pass.remote())
            attempts = {shard: failures[shard] + 1 for shard in pending}
            outcomes = dict(_one_pass(job, attempts, (workers, most), gpus, counter, progress))
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
                raise UserError("the workers die before they begin: Ray's logs tell of them")
    return set_aside


def _one_pass(
    job: Job, attempts: dict[int, int], workers: tuple[int, int], gpus: float, counter: Any, progress: ProgressMonitor
) -> Iterator[tuple[int, str]]:
    """Give every shard to a worker once. Yields each that came back with its error, empty where it is committed.

    Shards whose worker died yield nothing. Raises UserError where workers cannot start, or where shard after shard
    fails.
    """
    rows = [{"shard": shard, "attempt": attempt} for shard, attempt in attempts.items()]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        LabelWorker,  # type: ignore[arg-type]
        fn_constructor_args=([ray.put(job)], counter),  # in a list, so that a restarted actor fetches it itself
        compute=ActorPoolStrategy(min_size=workers[0], max_size=workers[1], max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=gpus or None,
        max_task_retries=0,  # has no other name yet: Ray warns that it will get one
        runtime_env={"env_vars": worker_environment()},
    )
    in_a_row = 0
    try:
        for row in results.iter_rows():
            shard, error = row["shard"], row["error"]
            if row["hopeless"]:
                raise UserError(error)
            in_a_row = in_a_row + (attempts[shard] == 1) if error else 0  # later passes hold only what failed before
            if not error:
                progress.shard_done()
            else:
                progress.log(f"{shard_name(shard)}: {error}")
            if in_a_row >= max(FAILURES_IN_A_ROW, 3 * workers[0]):
                raise UserError(f"{in_a_row} shards failed one after the other, the last one so: {error}")
            yield shard, error
    except RayError as error:
        raise UserError(f"the workers cannot work: {innermost(error)}") from None
