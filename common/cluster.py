"""Join or start a Ray cluster, set up the environment of its workers, and count how many workers it has room for."""

import contextlib
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator

import ray
from ray.exceptions import RayError

from common.errors import UserError, describe_error, handle_sigterm, stop_program
from common.storage import Storage
from common.storage.local import PARTIAL
from common.storage.s3 import SSE, SSE_KMS_KEY

# Workers read these variables when they start.
# By default glibc returns the memory of feature maps to the system after every layer, and page faults fetch it again.
# With the first three, it retains the memory: the teacher's time for a shard fell from 3.0 to 2.5 s.
# By default NumPy multiplies even small matrices with a thread per CPU of the worker, also if several of the worker's
# threads do so at a time. With the last one it uses one: two processes labeled 300 images in 9.7 s instead of 20 s.
WORKER_VARIABLES = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "268435456",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "OPENBLAS_NUM_THREADS": "1",
}
# variables of the driver's environment that workers on other machines need too; credentials are never forwarded
FORWARDED_VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    SSE,
    SSE_KMS_KEY,
)
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
CONNECT_TIMEOUT = 20.0  # seconds, for a connection to the cluster's head
MAX_SECONDS_TO_END = 5.0  # for workers of a program that is stopped
MAX_REASON_LENGTH = 300  # characters of Ray's message that an error quotes
ADVICE = "Start the cluster (ray start --head), correct the address, or unset RAY_ADDRESS to use this machine alone"


def worker_environment() -> dict[str, str]:
    """Return the environment variables to set for workers, on any machine."""
    forwarded = {name: os.environ[name] for name in FORWARDED_VARIABLES if name in os.environ}
    return WORKER_VARIABLES | forwarded


@contextlib.contextmanager
def hidden_credentials() -> Iterator[None]:
    """Remove credentials from this process's environment for the duration of the `with` block.

    Ray Tune would send them to other machines, whose logs would show them. Workers use those of their machine.
    """
    hidden = {name: os.environ.pop(name) for name in CREDENTIALS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def join_ray(show_workers_output: bool) -> None:
    """Join the cluster that RAY_ADDRESS names, or start one on this machine, without Ray's own log output.

    Raises UserError if the cluster cannot be joined.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    _check_head_answers(address)
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # for Ray Train and Tune: relative locations stay valid
    # Ray's core logs an error for every actor of Ray Data (ray#53727), which is harmless
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        with _filtered_stderr(b"RAY_BACKEND_LOG_LEVEL"):  # Ray logs that this variable is set
            ray.init(
                include_dashboard=False,
                log_to_driver=show_workers_output,
                logging_level=logging.ERROR,
                ignore_reinit_error=True,
            )
    except SystemExit:  # Ray's handler of SIGTERM, while it starts
        stop_program()
    except (OSError, RuntimeError, RayError) as error:  # no cluster, another version of Ray, or a wrong token
        reason = describe_error(error)[:MAX_REASON_LENGTH]
        raise UserError(f"RAY_ADDRESS={address}: the Ray cluster cannot be joined: {reason}. {ADVICE}") from None
    handle_sigterm()


@contextlib.contextmanager
def _filtered_stderr(hidden: bytes) -> Iterator[None]:
    """Hide lines with `hidden` that this process writes to standard error; others appear after the `with` block."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            for line in captured:
                if hidden not in line:
                    os.write(2, line)


def end_workers(storage: Storage) -> None:
    """Leave the cluster, which ends this program's workers, and remove the unfinished files that they leave in storage.

    Waits for the workers to end, but not for long: a file may also belong to another job on the same storage.
    """
    ray.shutdown()
    deadline = time.monotonic() + MAX_SECONDS_TO_END
    storage.sweep()
    while storage.list(PARTIAL) and time.monotonic() < deadline:
        time.sleep(0.05)
        storage.sweep()


def root_cause_message(error: RayError) -> str:
    """Return the last line of a Ray error, which holds the original error's message below the tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def max_per_machine(resource: str) -> float:
    """Return the largest amount of a resource ("CPU" or "GPU") that one machine of the cluster has."""
    return max((machine.get(resource, 0.0) for machine in _machine_resources()), default=0.0)


def cores_per_gpu() -> float:
    """Return how many CPU cores a GPU has to itself, on the machine with the fewest; 0 if no machine has a GPU.

    Machines without a CPU for workers, such as a head that was started with `--num-cpus 0`, do not count.
    """
    machines = [machine for machine in _machine_resources() if machine.get("GPU", 0) and machine.get("CPU", 0)]
    return min((machine["CPU"] / machine["GPU"] for machine in machines), default=0.0)


def gpus_of_this_machine() -> float:
    """Return how many GPUs the machine of this worker has."""
    this = ray.get_runtime_context().get_node_id()
    return next((node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["NodeID"] == this), 0.0)


def max_workers(gpus_per_worker: float) -> int:
    """Return how many workers, each with one CPU and `gpus_per_worker` GPUs, the machines now in the cluster can hold.

    `gpus_per_worker` may be 0 or a fraction; a worker never spans two machines, nor a fraction of a GPU two GPUs.
    """
    return sum(
        min(int(machine.get("CPU", 0)), _max_gpu_shares(machine.get("GPU", 0.0), gpus_per_worker))
        for machine in _machine_resources()
    )


def _max_gpu_shares(available: float, share: float) -> int:
    """Return how many shares of `share` GPUs a machine with `available` GPUs can give."""
    if not share:
        return sys.maxsize
    return int(available / share) if share >= 1 else int(available) * int(1 / share + 1e-6)


def _machine_resources() -> list[dict[str, float]]:
    """Return the resources of each running machine in the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _check_head_answers(address: str) -> None:
    """Raise UserError if nothing accepts connections at a HOST:PORT address; Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return  # "auto" or "local"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({describe_error(error)}). {ADVICE}"
        ) from None
