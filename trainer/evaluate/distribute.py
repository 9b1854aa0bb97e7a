"""Features by many processes: the only part of the evaluation that knows Ray."""

import os
import pickle
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from common.cluster import join_ray, root_cause_message, worker_environment
from common.errors import UserError
from common.launch import default_device
from trainer.evaluate.features import Piece, extract_here
from trainer.evaluate.images.image_sets import ImageSet, ImageSubset
from trainer.evaluate.models import EvaluatedModel

CHUNK = 1024  # images of a task
ATTEMPTS = 3  # more, of a task whose process died


class Extractor:
    """A process that holds networks and the sets (`held` refers to both), on a GPU of its own where there is one."""

    def __init__(self, held: list[Any], size: int, batch_size: int, readers: int | None, workers: int) -> None:
        self._held, self._size, self._batch_size = held[0], size, batch_size
        self._readers = max((os.cpu_count() or 1) // workers, 1) if readers is None else readers

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """A task names a set and the images of it, `start` to `end`: gives its pieces, pickled."""
        try:
            networks, sets = self._networks_and_sets
            part = ImageSubset(sets[task["number"]], np.arange(task["start"], task["end"]))
            found = extract_here(networks, part, self._size, self._device, self._batch_size, self._readers)
            moved = [_moved(piece, task["start"]) for piece in found]
        except UserError as error:
            return {"number": task["number"], "pieces": b"", "error": str(error)}
        return {"number": task["number"], "pieces": pickle.dumps(moved), "error": ""}

    @cached_property
    def _networks_and_sets(self) -> tuple[list[Any], Sequence[ImageSet]]:
        """Not made when the process starts: of what fails there Ray tells nothing, and starts it again."""
        networks, sets = ray.get(self._held)
        return [network.to(self._device) for network in networks], sets

    @cached_property
    def _device(self) -> torch.device:
        return default_device()


def extract_on_ray(
    models: Sequence[EvaluatedModel],
    sets: Sequence[ImageSet],
    size: int,
    batch_size: int,
    readers: int | None,
    workers: int,
) -> Iterator[tuple[int, Piece]]:
    """The sets' features piece by piece, in order, from `workers` processes. Raises UserError."""
    join_ray(show_workers_output=True)
    kind = "GPU" if ray.cluster_resources().get("GPU", 0) else "CPU"
    room = ray.cluster_resources().get(kind, 0)
    if room < workers:
        raise UserError(f"--workers {workers}: expected a {kind} for each, this cluster has {room:g}; ask for fewer")
    tasks = [
        {"number": number, "start": start, "end": min(start + CHUNK, len(each.names))}
        for number, each in enumerate(sets)
        for start in range(0, len(each.names), CHUNK)
    ]
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    done = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        Extractor,  # type: ignore[arg-type]
        fn_constructor_args=(
            [ray.put(([model.network for model in models], list(sets)))],
            size,
            batch_size,
            readers,
            workers,
        ),
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if kind == "GPU" else None,
        max_restarts=ATTEMPTS,
        max_task_retries=ATTEMPTS,  # Ray's own number has no end
        runtime_env={"env_vars": worker_environment()},
    )
    try:
        for row in done.iter_rows():
            if row["error"]:
                raise UserError(row["error"])
            yield from ((row["number"], piece) for piece in pickle.loads(row["pieces"]))
    except RayError as error:
        raise UserError(f"the workers cannot extract features: {root_cause_message(error)}") from None


def _moved(piece: Piece, start: int) -> Piece:
    """A part's indices -> the whole set's."""
    return Piece(piece.rows, piece.indices + start, {index + start: why for index, why in piece.failed.items()})
