"""The model's attention maps of the samples on the page, and the file in which they outlast a stopped run."""

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.page import normalize_map
from common.saliency import cc, resize_maps
from common.storage.run_folder import RunFolder
from trainer.objectives import AttentionObjective, Model, predicts_single_maps
from trainer.objectives.base import ModelInputs
from trainer.run_page.samples import PageSample

MAPS_FILE = "attention_maps.npz"
MAP_SIDE = 56  # pixels
NO_POINTS = np.empty((0, 3), np.float32)
PLANNED_EPOCHS = 5  # at most so many epochs stay on the page; the latest one is shown as well


class EpochMaps(NamedTuple):
    """The model's maps after an epoch, of n samples.

    Attributes:
        maps: in the frame of the stored pixels, uint8 [n, MAP_SIDE, MAP_SIDE], 255 at each map's maximum.
        correlations: CC of each map with that of its sample, float32 [n].
    """

    maps: np.ndarray
    correlations: np.ndarray


@torch.no_grad()
def predict_maps(model: Model, samples: Sequence[PageSample], device: torch.device) -> EpochMaps | None:
    """Predict the maps of the samples' whole frames; None if the model predicts no map of single images.

    The model runs in evaluation mode; its mode is restored. No random numbers are drawn.
    """
    if not predicts_single_maps(model):
        return None
    was_training = model.training
    images = torch.stack([sample.clean for sample in samples]).to(device).float() / 255
    predicted = model.eval().attention(images)
    model.train(was_training)
    if predicted is None:
        return None
    maps = predicted.float().cpu().nan_to_num()
    targets = torch.stack([torch.from_numpy(sample.attention.copy()) for sample in samples]).float() / 255
    return EpochMaps(_shrink(maps), cc(maps, targets).numpy())


@torch.no_grad()
def show_targets(model: Model, samples: Sequence[PageSample], device: torch.device) -> list[PageSample]:
    """Return the samples with the maps that the model is trained to predict, which controls do not read from shards."""
    objective = model.objective(AttentionObjective)
    if objective is None:
        return list(samples)
    clean = torch.stack([sample.clean for sample in samples]).to(device).float() / 255
    attention = torch.stack([torch.from_numpy(sample.attention.copy()) for sample in samples]).to(device).float() / 255
    labels = torch.empty(0, dtype=torch.int64)
    targets = objective.target(ModelInputs((), clean, attention, [NO_POINTS] * len(samples), labels))
    maps = [normalize_map(attention) for attention in targets.maps.cpu().numpy()]
    return [sample._replace(attention=attention) for sample, attention in zip(samples, maps, strict=True)]


def plan_epochs(epochs: int) -> set[int]:
    """Return the epochs whose maps stay on the page: 0 (before training), 1, the last, and some in between.

    They are denser at the beginning, where maps change faster.
    """
    return {0, *np.geomspace(1, epochs, PLANNED_EPOCHS - 1).round().astype(int).tolist()}


def keep_shown(maps: Mapping[int, EpochMaps], epochs: int) -> dict[int, EpochMaps]:
    """Return those of the maps by epoch that the page of a run of so many epochs shows: planned ones and the latest."""
    shown = {*plan_epochs(epochs), max(maps, default=0)}
    return {epoch: maps[epoch] for epoch in sorted(maps) if epoch in shown}


def save_maps(folder: RunFolder, maps: Mapping[int, EpochMaps]) -> None:
    """Save maps by epoch in the folder of the run. Raises UserError."""
    buffer = io.BytesIO()
    by_epoch = [maps[epoch] for epoch in maps]
    np.savez_compressed(
        buffer,
        epochs=np.array(list(maps)),
        maps=np.stack([epoch.maps for epoch in by_epoch]),
        correlations=np.stack([epoch.correlations for epoch in by_epoch]),
    )
    folder.write_bytes(MAPS_FILE, buffer.getvalue())


def load_maps(folder: RunFolder, last: int) -> dict[int, EpochMaps]:
    """Load the saved maps of the epochs up to `last`; there may be none. For a damaged file, raises what NumPy does."""
    path = folder.fetch(MAPS_FILE)
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as saved:
        epochs = zip(saved["epochs"].tolist(), saved["maps"], saved["correlations"], strict=True)
        return {epoch: EpochMaps(maps, correlations) for epoch, maps, correlations in epochs if epoch <= last}


def _shrink(maps: Tensor) -> np.ndarray:
    small = resize_maps(maps, (MAP_SIDE, MAP_SIDE))
    return np.stack([normalize_map(attention) for attention in small.clamp(min=0).numpy()])
