"""The same training function alone, under torchrun, or under Ray Train: it is told its place among the processes."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed

from common.errors import UserError, describe_error

MOST_FAILURES = 3  # of workers, after which a run under Ray Train ends


@dataclass(frozen=True)
class Rank:
    """A process among those that train together, and the device that it trains on."""

    index: int
    world_size: int
    device: torch.device

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Average a tensor over all ranks; every rank must call it. The input may be overwritten."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values / self.world_size

    def total(self, number: int) -> int:
        """Add up a number over all ranks; every rank must call it."""
        return round(self.world_size * self.mean(torch.tensor(float(number), device=self.device)).item())


def is_main_process() -> bool:
    """Is this the only process that was started, or the first of torchrun's? One of them speaks and writes for all."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size(workers: int) -> int:
    """How many train together: so many as torchrun has started, else `workers`."""
    return int(os.environ.get("WORLD_SIZE", workers))


def launch(function: Callable[[Rank], None], workers: int, folder: Path) -> None:
    """Run the function: in this process, in those that torchrun started, or in `workers` of a Ray cluster.

    A single worker is this process, unless RAY_ADDRESS names a cluster, as it does in submitted jobs: what drives a job
    may be a machine without a GPU.
    Where a worker of the cluster dies, the function begins again in all of them, and goes on from its own checkpoint.
    Ray keeps its notes in `folder`. Raises UserError, also where the cluster has no room or the workers keep failing.
    """
    if world_size(1) > 1:
        _under_torchrun(function)
    elif workers == 1 and os.environ.get("RAY_ADDRESS", "local") == "local":
        function(Rank(0, 1, default_device(0)))
    else:
        _under_ray(function, workers, folder)


def _under_torchrun(function: Callable[[Rank], None]) -> None:
    device = default_device(int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where NCCL moves Python objects, too
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        function(_current_rank(device))
    finally:
        torch.distributed.destroy_process_group()


def _under_ray(function: Callable[[Rank], None], workers: int, folder: Path) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
    from ray.train.torch import TorchTrainer, get_device
    from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

    from common.cluster import join_ray, worker_environment

    join_ray(show_workers_output=True)
    resources = ray.cluster_resources()
    kind = "GPU" if resources.get("GPU", 0) else "CPU"
    if resources.get(kind, 0) < workers:
        found = f"{resources.get(kind, 0):g} {kind}s"
        raise UserError(f"--workers {workers}: expected a {kind} for each, this cluster has {found}; ask for fewer")

    class EndsAtMistakes(UserCallback):
        """Workers that die begin again; a UserError ends the run at once: it is raised here, which Ray does not retry.

        The other workers' errors are not shown: they only say that a partner was lost.
        """

        def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
            for error in map(_cause, worker_exceptions.values()):
                if isinstance(error, UserError):
                    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # it would print the callback's traceback
                    raise error

    trainer = TorchTrainer(
        lambda: function(_current_rank(get_device())),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=kind == "GPU"),
        run_config=RunConfig(  # type: ignore[call-arg]  # the types are those of Ray Train's first version
            name="ray",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=MOST_FAILURES),
            callbacks=[EndsAtMistakes()],  # type: ignore[list-item]
            worker_runtime_env={"env_vars": worker_environment()},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if isinstance(error, ControllerError):
            raise UserError(describe_error(error.controller_failure)) from error
        failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
        raise UserError(describe_error(_cause(failures[0]))) from error


def _cause(failure: Exception) -> Exception:
    """What was raised in a worker, out of what Ray wraps around it."""
    cause = getattr(failure, "cause", None)
    return cause if isinstance(cause, Exception) else failure


def _current_rank(device: torch.device) -> Rank:
    return Rank(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def default_device(index: int | None = None) -> torch.device:
    """The GPU with this index (the current one by default) if PyTorch finds a usable GPU, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if index is None else torch.device("cuda", index)
