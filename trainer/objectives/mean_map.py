"""The mean attention map of training images, which `contrastive-attn-center` predicts for every image."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError, describe_error
from common.shards import decode_map
from trainer.config import TrainConfig
from trainer.data.dataset import Dataset
from trainer.data.shard_reader import ShardReader
from trainer.objectives.attention import AttentionObjective
from trainer.objectives.attention_targets import CenterTarget
from trainer.objectives.base import Model

IMAGES = 2_000
MEAN_MAP_SEED = 13  # second element of the seed, as in trainer.data.sampler


def set_center_target(model: Model, data: Dataset, config: TrainConfig) -> None:
    """Make the mean map of the data set the target of a model's attention objective. Raises UserError."""
    objective = model.objective(AttentionObjective)
    assert objective is not None
    assert isinstance(objective.target, CenterTarget)
    objective.target.set_map(compute_mean_map(data, config.seed, config.skip_damaged))


def compute_mean_map(data: Dataset, seed: int, skip_damaged: bool = False) -> Tensor:
    """Compute the mean of the attention maps of 2,000 images, or of all if there are fewer: float32 [M, M] in [0, 1].

    Whole shards are drawn by seed until they hold enough images: shards hold images in random order, and no more than
    a few need to be read. Images are not decoded. The result is the same on all ranks.

    Raises UserError for a damaged shard or map; with `skip_damaged` it is skipped, unless no map can be read.
    """
    total, number = torch.zeros((), dtype=torch.float64), 0
    for attention in itertools.islice(_read_maps(data, seed, skip_damaged), IMAGES):
        total, number = total + torch.from_numpy(attention.copy()).double(), number + 1
    if not number:
        raise UserError(f"{data.location}: none of its attention maps can be read; label the images again")
    return (total / number / 255).float()


def _read_maps(data: Dataset, seed: int, skip_damaged: bool) -> Iterator[np.ndarray]:
    """Yield the maps of all samples, uint8 [M, M], shard after shard in an order drawn by seed."""
    reader = ShardReader(data, skip_damaged)
    for shard in np.random.default_rng([seed, MEAN_MAP_SEED]).permutation(len(data.shards)).tolist():
        for members in reader.read(shard):
            try:
                yield decode_map(members["attn.png"])
            except Exception as error:  # Pillow raises many types for damaged bytes
                if not skip_damaged:
                    raise UserError(
                        f"{data.location}/{data.shards[shard]}: the attention map of sample {members['__key__']!s} "
                        f"cannot be read: {describe_error(error)}; check the data set with python -m labeler.verify, "
                        "or add --skip-damaged"
                    ) from None
