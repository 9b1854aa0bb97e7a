"""The Ray cluster that a job runs on: joined or started, and how much room it has."""

import logging
import os
import time
import warnings

import ray
from ray.autoscaler.sdk import request_resources
from ray.data import DataContext

from common.errors import UserError
from common.s3_storage import SSE, SSE_KMS_KEY
from labeler.config import WorkSettings

# glibc gives the teacher's feature maps back to the system after every layer and faults their pages in again: kept, the
# teacher's share of a shard fell from 3.0 to 2.5 s. A process reads them when it starts
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "268435456", "MALLOC_TRIM_THRESHOLD_": "1073741824"}
# of the driver's environment, what workers on other machines need too; credentials never travel
FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    SSE,
    SSE_KMS_KEY,
)


def worker_environment() -> dict[str, str]:
    """Environment variables of the workers, on whatever machine."""
    return ALLOCATOR | {name: os.environ[name] for name in FORWARDED if name in os.environ}


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
    fits, each = _fits(settings)
    if not fits:  # an autoscaler starts machines for those who ask
        request_resources(bundles=[{"CPU": 1.0} | ({"GPU": each} if each else {})] * (settings.workers or 1))
        while not fits and time.monotonic() < deadline:
            time.sleep(0.5)
            fits, each = _fits(settings)
        request_resources(bundles=[])
    if fits:
        return min(settings.workers or fits, fits, pending), each
    gpus = ray.cluster_resources().get("GPU", 0.0)
    waited = f"waited {settings.wait_for_machines:g} s for it; --wait-for-machines sets how long"
    if each > gpus:
        raise UserError(
            f"--gpus-per-worker {each:g}: this cluster has {gpus:g} GPUs ({waited}); ask for fewer, or 0 for the CPU"
        )
    raise UserError(f"this cluster has no CPU to run a worker on ({waited})")


def _fits(settings: WorkSettings) -> tuple[int, float]:
    """How many workers the machines of this moment can hold, with how many GPUs each."""
    resources = ray.cluster_resources()
    gpus, cpus = resources.get("GPU", 0.0), resources.get("CPU", 0.0)
    each = settings.gpus_per_worker if settings.gpus_per_worker is not None else min(1.0, gpus)
    return (min(int(cpus), int(gpus / each)) if each else int(cpus)), each


def threads(settings: WorkSettings, gpus: float) -> int:
    """A GPU is fed by many decoding threads; beside the teacher on a CPU core, two keep it busy."""
    return settings.threads_per_worker or (max(4, min(16, os.cpu_count() or 4)) if gpus else 2)
