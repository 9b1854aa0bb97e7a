"""The Ray cluster of a labeling job: join or start it, and decide how many workers run and with which resources."""

import logging
import time
import warnings

from ray.autoscaler.sdk import request_resources
from ray.data import DataContext

from common.cluster import cores_per_gpu, join_ray, max_per_machine, max_workers
from common.errors import UserError
from labeler.config import WorkSettings

# One worker cannot keep a GPU busy, because its threads compete for Python's global lock, so that by default as many
# workers share a GPU as have this many cores each.
CORES_PER_WORKER = 2
MAX_WORKERS_PER_GPU = 8
POLL_SECONDS = 0.5  # between two checks of a cluster that is starting machines


def start_ray() -> None:
    """Join or start a cluster, and configure Ray Data for the passes of a job."""
    join_ray(show_workers_output=False)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a dead worker does not end the pass; the next pass labels its shards


def default_gpu_share(cores: float) -> float:
    """Return the GPUs of a worker if each GPU has this many CPU cores to itself: a fraction, or 1."""
    return 1 / max(1, min(MAX_WORKERS_PER_GPU, int(cores / CORES_PER_WORKER)))


def allocate_workers(settings: WorkSettings, pending: int) -> tuple[int, float]:
    """Return how many workers to start for the pending shards, and the GPUs of each.

    If no worker fits into the cluster, asks its autoscaler for machines and waits `settings.wait_for_machines` seconds.
    Raises UserError if there is still no room then.
    """
    deadline = time.monotonic() + settings.wait_for_machines
    fitting, gpus = _workers_that_fit(settings)
    if not fitting:
        request_resources(bundles=[{"CPU": 1.0} | ({"GPU": gpus} if gpus else {})] * (settings.workers or 1))
        while not fitting and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            fitting, gpus = _workers_that_fit(settings)
        request_resources(bundles=[])
    if fitting:
        return min(settings.workers or fitting, fitting, pending), gpus
    available = max_per_machine("GPU")
    waited = f"waited {settings.wait_for_machines:g} s for it; --wait-for-machines sets how long"
    if gpus > available:
        raise UserError(
            f"--gpus-per-worker {gpus:g}: a machine of this cluster has {available:g} GPUs at most ({waited}); ask for "
            "fewer, or 0 for the CPU"
        )
    raise UserError(f"this cluster has no CPU to run a worker on ({waited})")


def _workers_that_fit(settings: WorkSettings) -> tuple[int, float]:
    """Return how many workers the machines now in the cluster can hold, and the GPUs of each."""
    gpus = settings.gpus_per_worker
    if gpus is None:
        cores = cores_per_gpu()
        gpus = default_gpu_share(cores) if cores else 0.0
    return max_workers(gpus), gpus
