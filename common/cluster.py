"""Joining a Ray cluster, or starting one here; what its workers find in their environment."""

import logging
import os
import socket
import sys

import ray
from ray.exceptions import RayError

from common.errors import UserError, describe_error
from common.storage.s3 import SSE, SSE_KMS_KEY

# glibc gives the network's feature maps back to the system after every layer and faults their pages in again: kept, the
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
ANSWERS_WITHIN = 20.0  # seconds, of a cluster's head
WAYS_OUT = (
    "Start the cluster (ray start --head), correct the address, or unset RAY_ADDRESS to work on this machine alone"
)


def worker_environment() -> dict[str, str]:
    """Environment variables of the workers, on whatever machine."""
    return ALLOCATOR | {name: os.environ[name] for name in FORWARDED if name in os.environ}


def join_ray(show_workers_output: bool) -> None:
    """Join the cluster that the environment names, or start one here; no noise beside our own progress line.

    Raises UserError where there is no such cluster.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    _check_that_somebody_answers(address)
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # of Ray Train and Tune: locations may be relative
    # Ray's core prints an error for every actor of Ray Data (ray#53727), which means nothing for this job
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray.init(
            include_dashboard=False,
            log_to_driver=show_workers_output,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
        )
    except (OSError, RuntimeError, RayError) as error:  # no cluster, one of another version, a wrong token
        reason = describe_error(error)[:300]
        raise UserError(f"RAY_ADDRESS={address}: the Ray cluster cannot be joined: {reason}. {WAYS_OUT}") from None


def innermost(error: RayError) -> str:
    """The reason that Ray has wrapped: the last line of an error that holds tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def largest(kind: str) -> float:
    """The CPUs or GPUs of the machine of the cluster that has most of them."""
    return max((machine.get(kind, 0.0) for machine in _machines()), default=0.0)


def most_workers(gpus: float) -> int:
    """How many workers with a CPU and so many GPUs (0 or a part, too) the machines of this moment hold."""
    return sum(min(int(machine.get("CPU", 0)), _shares(machine.get("GPU", 0.0), gpus)) for machine in _machines())


def _shares(available: float, each: float) -> int:
    """How many times a machine has so many GPUs; a part of one does not reach into the next."""
    if not each:
        return sys.maxsize
    return int(available / each) if each >= 1 else int(available) * int(1 / each + 1e-6)


def _machines() -> list[dict[str, float]]:
    """What each machine of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _check_that_somebody_answers(address: str) -> None:
    """Open a connection to the head first: Ray itself would wait minutes for one that is gone. Raises UserError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return  # auto or local
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({describe_error(error)}). {WAYS_OUT}"
        ) from None
