"""Labeling on Ray Data: a row is a shard, an actor is a worker, and only shard numbers and errors travel through Ray.

The work is done in passes over the pending shards. A shard that fails, or whose worker dies, is tried again in the next
pass, so that no pass waits for a machine that never comes back. After `MAX_ATTEMPTS` failures a shard is set aside.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from common.cluster import end_workers, root_cause_message, worker_environment
from common.errors import UserError
from common.manifest import Plan, shard_name
from common.text import pluralize
from labeler.config import WorkSettings
from labeler.distributed.metrics import JobMetrics
from labeler.distributed.progress import ProgressMonitor
from labeler.distributed.resources import allocate_workers, start_ray
from labeler.distributed.worker import LabelWorker, ProgressCounter, WorkerSpec
from labeler.teacher.weights import TeacherSource

MAX_ATTEMPTS = 3  # to label a shard; also passes in a row in which no worker starts a shard
# The run ends after this many first attempts failed in a row, or three per worker if that is more: the cause is then
# not in the shards.
MAX_FAILURES_IN_A_ROW = 10


def label_shards(
    settings: WorkSettings,
    output: str,
    plan: Plan,
    pending: list[int],
    teacher: TeacherSource,
    progress: ProgressMonitor,
) -> dict[int, str]:
    """Label the pending shards of a plan. Returns the shards that were set aside, with the reason.

    Raises UserError if the cluster has no room for a worker, if workers cannot start, or if shard after shard fails.
    Ctrl-C and SIGTERM end the workers and remove their unfinished files.
    """
    start_ray()
    try:
        return _run_passes(settings, output, plan, pending, teacher, progress)
    except KeyboardInterrupt:
        end_workers(progress.storage)
        raise


def _run_passes(
    settings: WorkSettings,
    output: str,
    plan: Plan,
    pending: list[int],
    teacher: TeacherSource,
    progress: ProgressMonitor,
) -> dict[int, str]:
    """Give the pending shards to workers until each is committed or set aside. Returns the latter, with the reason."""
    counter: Any = ray.remote(ProgressCounter).options(num_cpus=0, scheduling_strategy=_this_node()).remote()
    metrics = JobMetrics(output, plan)
    failures: Counter[int] = Counter()
    set_aside: dict[int, str] = {}
    idle_passes = 0
    with progress.watch(lambda: ray.get(counter.count_images.remote())):
        while pending:
            workers, gpus = allocate_workers(settings, len(pending))
            progress.workers = max(progress.workers, workers)
            most_workers = max(workers, min(settings.workers or 0, len(pending)))  # if more machines join
            threads, starts = settings.threads_per_worker, 2 * most_workers + 2
            spec = WorkerSpec(plan, output, teacher, threads, gpus, starts, settings.batch_timeout)
            ray.get(counter.start_pass.remote())
            attempts = {shard: failures[shard] + 1 for shard in pending}
            errors = dict(_run_pass(spec, attempts, (workers, most_workers), counter, progress))
            started, deaths = ray.get([counter.started_shards.remote(), counter.reported_deaths.remote()])
            for shard in pending:
                if shard not in errors and shard in started:
                    reason = deaths.get(shard, "out of memory?")
                    errors[shard] = f"its worker died while it made this shard ({reason})"
                if errors.get(shard):
                    failures[shard] += 1
                if failures[shard] >= MAX_ATTEMPTS:
                    set_aside[shard] = f"failed {MAX_ATTEMPTS} times, the last time: {errors[shard]}"
                    metrics.count_set_aside_shard()
            pending = [shard for shard in pending if errors.get(shard, "not started") and shard not in set_aside]
            idle_passes = 0 if errors else idle_passes + 1
            if idle_passes >= MAX_ATTEMPTS:
                raise UserError("the workers die before they start a shard: Ray's logs say why (ray logs)")
    return set_aside


def _run_pass(
    spec: WorkerSpec,
    attempts: dict[int, int],
    pool_size: tuple[int, int],
    counter: Any,
    progress: ProgressMonitor,
) -> Iterator[tuple[int, str]]:
    """Give every shard to a worker once, and yield each shard that comes back with its error, empty if it is committed.

    `attempts` holds the number of the attempt by shard, and `pool_size` the smallest and largest number of workers. A
    shard whose worker dies is not yielded. Raises UserError if workers cannot start, or if shard after shard fails.
    """
    rows = [{"shard": shard, "attempt": attempt} for shard, attempt in attempts.items()]
    worker_class: Any = LabelWorker  # Ray annotates the argument of map() as a function, but accepts callable classes
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        worker_class,
        fn_constructor_args=([ray.put(spec)], counter),  # in a list, so that a restarted actor fetches it itself
        compute=ActorPoolStrategy(min_size=pool_size[0], max_size=pool_size[1], max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=spec.gpus or None,
        max_task_retries=0,  # retries are made by the next pass; start_ray() silences Ray's warning about this argument
        runtime_env={"env_vars": worker_environment()},
    )
    failures_in_a_row = 0
    try:
        for row in results.iter_rows():
            shard, error = row["shard"], row["error"]
            if row["fatal"]:
                raise UserError(error)
            if row["warning"]:
                progress.warn(row["warning"])
            if error:
                progress.log(f"{shard_name(shard)}: {error}")
                failures_in_a_row += attempts[shard] == 1  # later passes hold only shards that have failed before
            else:
                progress.add_shard()
                failures_in_a_row = 0
            if failures_in_a_row >= max(MAX_FAILURES_IN_A_ROW, 3 * pool_size[0]):
                raise UserError(f"{pluralize(failures_in_a_row, 'shard')} failed in a row, the last one with: {error}")
            yield shard, error
    except RayError as error:
        raise UserError(f"Ray could not run the workers: {root_cause_message(error)}") from None


def _this_node() -> NodeAffinitySchedulingStrategy:
    """Return a scheduling strategy that places an actor on the driver's machine, which lives as long as the run."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
