"""Quality of the representation while a model trains: accuracy of nearest neighbors, and RankMe."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed
from torch import Tensor

from common.errors import UserError
from common.launch import Rank
from trainer.config import TrainSettings
from trainer.data.dataset import Dataset
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.neighbors import NEIGHBORS, count_correct
from trainer.objectives import Model
from trainer.studies.accuracy import (
    LabeledImage,
    evaluation_batches,
    open_val_folders,
    read_folder_images,
    read_shard_images,
)

MAX_BANK = 100_000  # training images whose features are compared with
BANK_SEED = 11
EPSILON = 1e-7  # RankMe's


class Monitor:
    """Function for `trainer.loop.train` that measures a model after every few epochs, on all ranks together.

    It logs `knn_20` and `knn_200`, the accuracy of the weighted vote of the nearest training images by cosine, and
    `rankme`, the effective rank of the training images' features (Garrido et al. 2023). The training images, the bank,
    are whole shards drawn by seed.

    Args:
        settings: settings of the run.
        data: training data with classes.
        images: validation images of the same classes.
        rank: this process among those that train together.
    """

    def __init__(self, settings: TrainSettings, data: Dataset, images: FolderImages, rank: Rank) -> None:
        config = settings.train_config()  # has the defaults of the recipe and of the demo
        self._size, self._epochs, self._every = config.image_size, config.epochs, settings.monitor_every
        self._threads = settings.threads_per_worker(rank.device.type)
        self._bank, self._skip_damaged = draw_bank(data, config.seed), config.skip_damaged
        self._images, self._classes, self._rank = images, data.class_names(), rank
        self._cache = settings.shard_cache(data.location)

    def __call__(self, epoch: int, model: Model) -> dict[str, float]:
        """Measure the model after the epoch if one is due. Returns the metrics by name."""
        if epoch % self._every and epoch != self._epochs:
            return {}
        rank, world_size = self._rank.index, self._rank.world_size
        shards = self._bank.select(range(rank, len(self._bank.shards), world_size)) if world_size > 1 else self._bank
        known = read_shard_images(shards, self._size, self._threads, self._skip_damaged, self._cache)
        bank, bank_labels = (gather_rows(rows, world_size) for rows in compute_features(model, known, self._rank))
        part = slice(rank, None, world_size)
        readable = read_folder_images(self._images, self._classes, self._size, {}, self._threads, part)
        queries, labels = compute_features(model, readable, self._rank)
        correct = count_correct(queries, labels, bank, bank_labels, len(self._classes), NEIGHBORS)
        total = self._rank.total(len(queries))
        accuracies = {f"knn_{k}": self._rank.total(hits) / max(total, 1) for k, hits in correct.items()}
        return {**accuracies, "rankme": effective_rank(bank)}


def make_monitor(settings: TrainSettings, data: Dataset, rank: Rank) -> Monitor | None:
    """Return the monitor of a run; None without `--monitor`. Raises UserError if the folder does not fit the data."""
    if settings.monitor is None:
        return None
    if data.classes is None:
        raise UserError(f"--monitor: the samples of {data.location} have no classes; leave the flag out")
    images = open_val_folders(settings.monitor, data.class_names(), "--monitor")
    return Monitor(settings, data, images, rank)


def draw_bank(data: Dataset, seed: int, most: int = MAX_BANK) -> Dataset:
    """Draw whole shards with at most `most` images together, but at least one shard."""
    order = np.random.default_rng([seed, BANK_SEED]).permutation(len(data.shards)).tolist()
    totals = np.cumsum([data.sizes[shard] for shard in order])
    return data.select(order[: max(int(np.searchsorted(totals, most, side="right")), 1)])


@torch.no_grad()
def compute_features(model: Model, images: Iterable[LabeledImage], rank: Rank) -> tuple[Tensor, Tensor]:
    """Return the features of images, float32 [n, channels], and their labels, int64 [n], on the rank's device.

    The model runs in evaluation mode; its mode is restored.
    """
    features = [torch.empty(0, model.backbone.channels, device=rank.device)]
    labels = [torch.empty(0, dtype=torch.int64, device=rank.device)]
    for pixels, batch_labels in evaluation_batches(model, images, rank.device):
        features.append(model.features(pixels).float())
        labels.append(batch_labels)
    return torch.cat(features), torch.cat(labels)


def gather_rows(rows: Tensor, world_size: int) -> Tensor:
    """Concatenate the rows [n, ...] of all ranks, in the order of the ranks; their numbers may differ."""
    if world_size == 1:
        return rows
    count = torch.tensor(len(rows), device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size)]
    torch.distributed.all_gather(counts, count)
    numbers = [int(number) for number in counts]
    padded = torch.zeros(max(numbers), *rows.shape[1:], dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in range(world_size)]
    torch.distributed.all_gather(gathered, padded)
    return torch.cat([part[:number] for part, number in zip(gathered, numbers, strict=True)])


def effective_rank(features: Tensor) -> float:
    """Return RankMe of features [n, C]: exp of the entropy of their singular values, 1 to min(n, C)."""
    matrix = features.double()
    gram = matrix.T @ matrix if len(matrix) >= matrix.shape[1] else matrix @ matrix.T
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = singular / singular.sum() + EPSILON
    return float((-(shares * shares.log()).sum()).exp())
