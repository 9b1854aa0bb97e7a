"""The same training function alone, under torchrun, or under Ray Train: it is told its place among the processes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed

from common.errors import UserError, told

MOST_FAILURES = 3  # of workers, after which a run under Ray Train ends


class Place(NamedTuple):
    """A process among those that train together, and the device that it trains on."""

    rank: int
    world: int
    device: torch.device

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Of the same tensor on all ranks, which must all ask for it; the given one may be overwritten."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values / self.world


def leads() -> bool:
    """Is this the only process that was started, or the first of torchrun's? One of them speaks and writes for all."""
    return int(os.environ.get("RANK", "0")) == 0


def launch(function: Callable[[Place], None], workers: int, folder: Path) -> None:
    """Run the function: in this process, in those that torchrun started, or in `workers` of a Ray cluster.

    A single worker is this process, unless RAY_ADDRESS names a cluster, as it does in submitted jobs: what drives a job
    may be a machine without a GPU.
    Where a worker of the cluster dies, the function begins again in all of them, and goes on from its own checkpoint.
    Ray keeps its notes in `folder`. Raises UserError, also where the cluster has no room or the workers keep failing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _under_torchrun(function)
    elif workers == 1 and os.environ.get("RAY_ADDRESS", "local") == "local":
        function(Place(0, 1, _device(0)))
    else:
        _under_ray(function, workers, folder)


def _under_torchrun(function: Callable[[Place], None]) -> None:
    device = _device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        function(_place(device))
    finally:
        torch.distributed.destroy_process_group()


def _under_ray(function: Callable[[Place], None], workers: int, folder: Path) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer, get_device
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    from common.cluster import join_ray, worker_environment

    join_ray(show_workers_output=True)
    resources = ray.cluster_resources()
    kind = "GPU" if resources.get("GPU", 0) else "CPU"
    if resources.get(kind, 0) < workers:
        found = f"{resources.get(kind, 0):g} {kind}s"
        raise UserError(f"--workers {workers}: expected a {kind} for each, this cluster has {found}; ask for fewer")
    trainer = TorchTrainer(
        lambda: function(_place(get_device())),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=kind == "GPU"),
        run_config=RunConfig(  # type: ignore[call-arg]  # the types are those of Ray Train's first version
            name="ray",
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=MOST_FAILURES),
            worker_runtime_env={"env_vars": worker_environment()},
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        failures: list[Exception] = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else []
        raise UserError(told(_first_cause([*failures, error]))) from error


def _first_cause(failures: list[Exception]) -> Exception:
    """Of the workers' errors the one that the user can mend, if there is one: the others only lost a partner."""
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    return next((cause for cause in causes if isinstance(cause, UserError)), causes[0])


def _place(device: torch.device) -> Place:
    return Place(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def _device(index: int) -> torch.device:
    return torch.device("cuda", index) if torch.cuda.is_available() else torch.device("cpu")
