"""The Ray cluster that a job runs on: joined or started, and how much room it has."""

import logging
import time
import warnings

from ray.autoscaler.sdk import request_resources
from ray.data import DataContext

from common.cluster import join_ray, largest, most_workers
from common.errors import UserError
from common.parallel import default_decoders
from labeler.config import WorkSettings

# Of a GPU, by default. The threads of a worker share Python's lock: on 16 cores and an H100 one worker with 16 threads
# labelled 258 images a second, four with 4 threads each 370, eight with 2 threads each 437
SHARE = 0.25


def start_ray() -> None:
    """Join or start a cluster, with Ray Data set up for the passes of a job."""
    join_ray(show_workers_output=False)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # the shards of a dead worker are left to the next pass


def allocate_workers(settings: WorkSettings, pending: int) -> tuple[int, float]:
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
    gpus = largest("GPU")
    waited = f"waited {settings.wait_for_machines:g} s for it; --wait-for-machines sets how long"
    if each > gpus:
        raise UserError(
            f"--gpus-per-worker {each:g}: a machine of this cluster has {gpus:g} GPUs at most ({waited}); ask for "
            "fewer, or 0 for the CPU"
        )
    raise UserError(f"this cluster has no CPU to run a worker on ({waited})")


def _fits(settings: WorkSettings) -> tuple[int, float]:
    """How many workers the machines of this moment can hold, with how many GPUs each."""
    each = settings.gpus_per_worker if settings.gpus_per_worker is not None else min(SHARE, largest("GPU"))
    return most_workers(each), each


def threads_per_worker(settings: WorkSettings, gpus: float) -> int:
    """Of a worker that has so many GPUs."""
    most = default_decoders(gpus=1 if gpus else 0)
    return settings.threads_per_worker or (max(2, round(min(gpus, 1) * most)) if gpus else most)
