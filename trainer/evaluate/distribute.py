"""Extraction of features by several processes with Ray; the only module of the evaluation that imports Ray."""

import pickle
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

from common.cluster import gpus_of_this_machine, join_ray, root_cause_message, worker_environment
from common.errors import UserError
from common.launch import default_device
from trainer.evaluate.extraction import FeatureBatch, default_readers, extract_features
from trainer.evaluate.images.image_sets import ImageSet, ImageSubset
from trainer.evaluate.models import EvaluatedModel

IMAGES_PER_TASK = 1024
MAX_RETRIES = 3  # restarts of a worker that died, and retries of its task; Ray's default for tasks is unlimited


class ExtractionWorker:
    """Ray Data actor that holds the networks and image sets and extracts features, on its own GPU if there is one.

    Args:
        shared: list of one reference to the networks and image sets in Ray's object store. Ray would replace a
            reference that is not in a list by its value.
        size: side of the images that the networks see, in pixels.
        batch_size: number of images per pass.
        readers: processes that read images, see `extract_features`; by default this worker's share of the machine's
            cores, at most 16.
        workers: number of workers of the job.
    """

    def __init__(self, shared: list[Any], size: int, batch_size: int, readers: int | None, workers: int) -> None:
        self._shared, self._size, self._batch_size = shared[0], size, batch_size
        if readers is None:
            workers_here = min(workers, int(gpus_of_this_machine()) or workers)  # a GPU has one worker
            readers = default_readers(workers_here)
        self._readers = readers

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """Extract the features of images `start` to `end` of set `number`; return the batches, pickled, or an error."""
        try:
            networks, sets = self._networks_and_sets
            subset = ImageSubset(sets[task["number"]], np.arange(task["start"], task["end"]))
            batches = extract_features(networks, subset, self._size, self._device, self._batch_size, self._readers)
            shifted = [_shift_indices(batch, task["start"]) for batch in batches]
        except UserError as error:
            return {"number": task["number"], "batches": b"", "error": str(error)}
        return {"number": task["number"], "batches": pickle.dumps(shifted), "error": ""}

    @cached_property
    def _networks_and_sets(self) -> tuple[list[Any], Sequence[ImageSet]]:
        # loaded by the first task: Ray restarts an actor that fails in its constructor without reporting the error
        networks, sets = ray.get(self._shared)
        return [network.to(self._device) for network in networks], sets

    @cached_property
    def _device(self) -> torch.device:
        return default_device()


def extract_with_ray(
    models: Sequence[EvaluatedModel],
    sets: Sequence[ImageSet],
    size: int,
    batch_size: int,
    readers: int | None,
    workers: int,
) -> Iterator[tuple[int, FeatureBatch]]:
    """Extract the features of image sets by several models in `workers` processes, each with its own GPU if there are.

    Yields each set's number with a batch of it, in order. The other arguments are those of `extract_features`. Raises
    UserError if the cluster has fewer GPUs (or cores) than workers, or extraction fails.
    """
    join_ray(show_workers_output=True)
    resource = "GPU" if ray.cluster_resources().get("GPU", 0) else "CPU"
    available = ray.cluster_resources().get(resource, 0)
    if available < workers:
        raise UserError(
            f"--workers {workers}: expected a {resource} for each, this cluster has {available:g}; ask for fewer"
        )
    tasks = [
        {"number": number, "start": start, "end": min(start + IMAGES_PER_TASK, len(images.names))}
        for number, images in enumerate(sets)
        for start in range(0, len(images.names), IMAGES_PER_TASK)
    ]
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    results = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        ExtractionWorker,  # type: ignore[arg-type]  # callable classes are allowed, but not annotated
        fn_constructor_args=(
            [ray.put(([model.network for model in models], list(sets)))],
            size,
            batch_size,
            readers,
            workers,
        ),
        compute=ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=1 if resource == "GPU" else None,
        max_restarts=MAX_RETRIES,
        max_task_retries=MAX_RETRIES,
        runtime_env={"env_vars": worker_environment()},
    )
    try:
        for result in results.iter_rows():
            if result["error"]:
                raise UserError(result["error"])
            yield from ((result["number"], batch) for batch in pickle.loads(result["batches"]))
    except RayError as error:
        raise UserError(f"the workers cannot extract features: {root_cause_message(error)}") from None


def _shift_indices(batch: FeatureBatch, start: int) -> FeatureBatch:
    """Turn indices in a subset that begins at `start` into indices in the whole set."""
    failures = {index + start: reason for index, reason in batch.failures.items()}
    return FeatureBatch(batch.vectors, batch.indices + start, failures)
