"""Attention maps of models for photographs with fixations, and their scores, image by image."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.alignment import References, score_prediction
from common.errors import UserError, describe_error
from common.fixations import FixatedImage
from common.parallel import available_cores
from common.progress import progress_bar
from common.text import join_names
from trainer.data.crops import resize_frame
from trainer.evaluate.alignment.scores import ScoresByImage
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.suite import Context
from trainer.model.attention import AttentionReadout

IMAGES_PER_GROUP = 32
AS_TRAINED, REFIT = "as_trained", "refit"  # versions of a model's read-out, keys in results.json

Key = tuple[str, str]  # data set and image
Version = tuple[str, str]  # model and version of its read-out
Images = Mapping[Key, FixatedImage]


class Measurement(NamedTuple):
    """What is measured.

    Attributes:
        context: settings, and models that predict attention.
        images: photographs with fixations.
        references: what maps are compared with, by data set.
        readouts: refit read-outs, by the model's name; models without one are measured as trained only.
    """

    context: Context
    images: Images
    references: Mapping[str, References]
    readouts: Mapping[str, AttentionReadout]


def with_attention(context: Context) -> Context:
    """Return the context with only those models that predict attention. Raises UserError if there are none."""
    blank = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2
    models = [model for model in context.models if predict_attention(context, model, blank, None)]
    if not models:
        names = ", ".join(model.location for model in context.models)
        raise UserError(f"--suite alignment: expected a model that predicts attention, found none among {names}")
    return context._replace(models=models)


def score_models(measurement: Measurement) -> tuple[dict[Version, ScoresByImage], dict[str, dict[str, str]]]:
    """Score each version of each model on all images.

    Returns the scores by model and version, and the reasons why images cannot be read, by data set and name. Raises
    UserError if none can be read.
    """
    images = measurement.images
    scores: dict[Version, ScoresByImage] = {}
    unreadable: dict[str, dict[str, str]] = {}
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        progress_bar(desc="human attention", unit=" images", total=len(images)) as bar,
    ):
        for group_scores, failed in pool.map(partial(_score_group, measurement), group_images(images)):
            bar.update(len(next(iter(group_scores.values()), ())) + len(failed))
            for (data, name), reason in failed.items():
                unreadable.setdefault(data, {})[name] = reason
            for version, by_image in group_scores.items():
                scores.setdefault(version, {}).update(by_image)
    if not scores:
        reasons = [reason for by_name in unreadable.values() for reason in by_name.values()]
        raise UserError(
            f"--human-data: expected at least one readable image, found {len(images):,} unreadable: "
            f"{join_names(reasons, 2)}"
        )
    return scores, unreadable


def group_images(images: Iterable[Key]) -> list[list[Key]]:
    """Divide images into even groups for one pass each; ContraCAM's maps depend on the other images of a group."""
    keys = list(images)
    ends = np.linspace(0, len(keys), -(-len(keys) // IMAGES_PER_GROUP) + 1).round().astype(int)
    return [keys[first:end] for first, end in itertools.pairwise(ends)]


def predict_maps(
    measurement: Measurement, group: Sequence[Key]
) -> tuple[dict[Version, dict[Key, Tensor]], dict[Key, str]]:
    """Predict each version's maps of a group's images; also return why some of them cannot be read."""
    pixels: dict[Key, Tensor] = {}
    failed: dict[Key, str] = {}
    for key in group:
        try:
            pixels[key] = measurement.images[key].pixels()
        except UserError as error:
            failed[key] = describe_error(error)
    maps: dict[Version, dict[Key, Tensor]] = {}
    for model in measurement.context.models if pixels else []:
        readout = measurement.readouts.get(model.name)
        predicted = predict_attention(measurement.context, model, list(pixels.values()), readout)
        for version, attention in predicted.items():
            maps[model.name, version] = dict(zip(pixels, attention, strict=True))
    return maps, failed


def _score_group(measurement: Measurement, group: Sequence[Key]) -> tuple[dict[Version, ScoresByImage], dict[Key, str]]:
    """Score each version on a group's images; also return why some of them cannot be read."""
    maps, failed = predict_maps(measurement, group)
    scores: dict[Version, ScoresByImage] = {version: {} for version in maps}
    for key in [key for key in group if key not in failed]:
        image, references = measurement.images[key], measurement.references[key[0]]
        reference = references.reference(image, references.generator(image))
        for version, predicted in maps.items():
            scores[version][key] = score_prediction(predicted[key], reference)
    return scores, failed


@torch.no_grad()  # not inference_mode: ContraCAM needs gradients
def predict_attention(
    context: Context, model: EvaluatedModel, pixels: Sequence[Tensor], readout: AttentionReadout | None
) -> dict[str, Tensor]:
    """Predict a model's maps of whole photographs, uint8 [3, H, W] each, and those of another read-out, if given.

    Returns maps [n, h, w] on the CPU by version of the read-out; none if the model predicts no attention. Raises
    UserError for maps that hold NaN or infinity, and for a single image if the maps depend on several.
    """
    size = context.store.image_size(model)
    images = torch.stack([resize_frame(photograph, size) for photograph in pixels]).to(context.device).float() / 255
    features = model.network.encode(images)
    try:
        attention = model.network.attention_of(features, (size, size))
    except ValueError as error:
        raise UserError(f"--human-data: {model.name}: {describe_error(error)}") from None
    if attention is None:
        return {}
    if not attention.isfinite().all():
        raise UserError(
            f"{model.location}: expected finite numbers as attention, found NaN or infinity; its weights have diverged "
            "or are damaged: evaluate without it"
        )
    maps = {AS_TRAINED: attention.float().cpu()}
    if readout is not None:
        maps[REFIT] = readout(features, (size, size)).cpu()
    return maps
