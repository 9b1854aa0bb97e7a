"""Run a training function in one process, under torchrun or under Ray Train, and pass it the rank of its process."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed

from common.errors import UserError, describe_error
from common.storage import LocalStorage

MAX_WORKER_FAILURES = 3  # failures of workers after which a run under Ray Train ends


@dataclass(frozen=True)
class Rank:
    """A process of a training run: its index, the number of processes, and the device that it trains on."""

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
    """Return whether this process prints and writes for the run: the first one of torchrun's, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def world_size(workers: int) -> int:
    """Return the number of training processes: as many as torchrun has started, else `workers`."""
    return int(os.environ.get("WORLD_SIZE", workers))


def launch(function: Callable[[Rank], None], workers: int, folder: Path) -> None:
    """Run the function in the processes that torchrun started, in this process, or in `workers` of a Ray cluster.

    A single worker runs in this process, unless RAY_ADDRESS names a cluster, because the machine that drives a
    submitted job may have no GPU. If a worker of the cluster dies, the function is started again on all workers
    and has to resume from its own checkpoint. Ray stores its files in `folder`. If the program is interrupted, the
    workers end, and their unfinished files in `folder` are removed.

    Raises UserError, also if the cluster is too small or the workers fail too often.
    """
    if world_size(1) > 1:
        _run_under_torchrun(function)
    elif workers == 1 and os.environ.get("RAY_ADDRESS", "local") == "local":
        function(Rank(0, 1, default_device(0)))
    else:
        _run_under_ray(function, workers, folder)


def default_device(index: int | None = None) -> torch.device:
    """Return the GPU with this index (default: the current one) if PyTorch finds a usable GPU, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda") if index is None else torch.device("cuda", index)


def _run_under_torchrun(function: Callable[[Rank], None]) -> None:
    device = default_device(int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collectives of Python objects use the current device
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        function(_current_rank(device))
    finally:
        torch.distributed.destroy_process_group()


def _run_under_ray(function: Callable[[Rank], None], workers: int, folder: Path) -> None:
    import ray  # takes more than a second, and a single process does not need it
    from ray.train import (
        ControllerError,
        FailureConfig,
        RunConfig,
        ScalingConfig,
        TrainingFailedError,
        UserCallback,
        WorkerGroupError,
    )
    from ray.train.torch import TorchTrainer, get_device

    from common.cluster import end_workers, join_ray, worker_environment

    join_ray(show_workers_output=True)
    resources = ray.cluster_resources()
    kind = "GPU" if resources.get("GPU", 0) else "CPU"
    available = resources.get(kind, 0)
    if available < workers:
        found = f"{available:g} {kind}" + ("" if available == 1 else "s")
        raise UserError(f"--workers {workers}: expected a {kind} for each, this cluster has {found}; ask for fewer")

    class StopOnUserError(UserCallback):
        """Callback that ends the run at a UserError. Other failures of workers are retried.

        Ray does not retry an error that a callback raises. The other workers' errors are not shown: they only report
        that the connection to the failed worker was lost.
        """

        def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
            for error in map(_original_error, worker_exceptions.values()):
                if isinstance(error, UserError):
                    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # hide the callback's traceback
                    raise error

    class Trainer(TorchTrainer):
        """Trainer that leaves Ctrl-C to the program; Ray's own handler would end it without a message."""

        def _register_sigint_handler(self, controller: object) -> None:
            pass

    trainer = Trainer(
        lambda: function(_current_rank(get_device())),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=kind == "GPU"),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=MAX_WORKER_FAILURES),
            callbacks=[StopOnUserError()],
            worker_runtime_env={"env_vars": worker_environment()},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if isinstance(error, ControllerError):
            raise UserError(describe_error(error.controller_failure)) from error
        failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
        raise UserError(describe_error(_original_error(failures[0]))) from error
    except KeyboardInterrupt:
        end_workers(LocalStorage(folder))
        raise


def _original_error(failure: Exception) -> Exception:
    """Return the exception that a worker raised, without Ray's wrapper."""
    cause = getattr(failure, "cause", None)
    return cause if isinstance(cause, Exception) else failure


def _current_rank(device: torch.device) -> Rank:
    return Rank(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)
