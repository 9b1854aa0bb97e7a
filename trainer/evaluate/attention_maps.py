"""Attention maps of models for photographs with fixations, and their scores, image by image."""

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError, describe_error
from common.fixations import FixatedImage
from common.parallel import available_cores
from common.progress import progress_bar
from common.saliency import score_map
from common.text import join_names
from trainer.data.crops import resize_frame
from trainer.evaluate.alignment_scores import Scores
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.suite import Context

IMAGES_PER_GROUP = 32

Key = tuple[str, str]  # data set and image
Images = Mapping[Key, FixatedImage]


def with_attention(context: Context) -> Context:
    """Return the context with only those models that predict attention. Raises UserError if there are none."""
    blank = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2
    models = [model for model in context.models if predict_attention(context, model, blank) is not None]
    if not models:
        names = ", ".join(model.location for model in context.models)
        raise UserError(f"--suite alignment: expected a model that predicts attention, found none among {names}")
    return context._replace(models=models)


def score_models(context: Context, images: Images) -> tuple[dict[str, Scores], dict[str, dict[str, str]]]:
    """Score each model on all images.

    Returns the scores by model, and the reasons why images cannot be read, by data set and name. Raises UserError if
    none can be read.
    """
    scores: dict[str, Scores] = {model.name: {} for model in context.models}
    unreadable: dict[str, dict[str, str]] = {}
    with (
        ThreadPoolExecutor(available_cores()) as pool,
        progress_bar(desc="human attention", unit=" images", total=len(images)) as bar,
    ):
        for group_scores, failed in pool.map(partial(_score_group, context, images), group_images(images)):
            bar.update(len(next(iter(group_scores.values()), ())) + len(failed))
            for (data, name), reason in failed.items():
                unreadable.setdefault(data, {})[name] = reason
            for model, by_image in group_scores.items():
                scores[model] |= by_image
    if not any(scores.values()):
        reasons = [reason for by_name in unreadable.values() for reason in by_name.values()]
        raise UserError(
            f"--human-data: expected at least one readable image, found {len(images):,} unreadable: "
            f"{join_names(reasons, 2)}"
        )
    return scores, unreadable


def group_images(images: Images) -> list[list[Key]]:
    """Divide images into even groups for one pass each; ContraCAM's maps depend on the other images of a group."""
    keys = list(images)
    ends = np.linspace(0, len(keys), -(-len(keys) // IMAGES_PER_GROUP) + 1).round().astype(int)
    return [keys[first:end] for first, end in itertools.pairwise(ends)]


def predict_maps(
    context: Context, images: Images, group: Sequence[Key]
) -> tuple[dict[str, dict[Key, Tensor]], dict[Key, str]]:
    """Predict each model's maps of a group's images; also return why some of them cannot be read."""
    pixels: dict[Key, Tensor] = {}
    failed: dict[Key, str] = {}
    for key in group:
        try:
            pixels[key] = images[key].pixels()
        except UserError as error:
            failed[key] = describe_error(error)
    maps = {}
    for model in context.models if pixels else []:
        predicted = predict_attention(context, model, list(pixels.values()))
        assert predicted is not None, "models without attention were excluded"
        maps[model.name] = dict(zip(pixels, predicted, strict=True))
    return maps, failed


def _score_group(context: Context, images: Images, group: Sequence[Key]) -> tuple[dict[str, Scores], dict[Key, str]]:
    """Score each model on a group's images; also return why some of them cannot be read."""
    maps, failed = predict_maps(context, images, group)
    scores: dict[str, Scores] = {model: {} for model in maps}
    for key in [key for key in group if key not in failed]:
        image = images[key]
        human = image.attention_map(image.height, image.width)
        for model, predicted in maps.items():
            scores[model][key] = score_map(predicted[key], human, image.fixations)
    return scores, failed


@torch.no_grad()  # not inference_mode: ContraCAM needs gradients
def predict_attention(context: Context, model: EvaluatedModel, pixels: Sequence[Tensor]) -> Tensor | None:
    """Predict a model's maps [n, h, w] of whole photographs, uint8 [3, H, W] each, on the CPU; None if it has none.

    Raises UserError for maps that hold NaN or infinity, and for a single image if the maps depend on several.
    """
    size = context.store.image_size(model)
    images = torch.stack([resize_frame(photograph, size) for photograph in pixels]).to(context.device).float() / 255
    try:
        attention = model.network.attention(images)
    except ValueError as error:
        raise UserError(f"--human-data: {model.name}: {describe_error(error)}") from None
    if attention is None:
        return None
    if not attention.isfinite().all():
        raise UserError(
            f"{model.location}: expected finite numbers as attention, found NaN or infinity; its weights have diverged "
            "or are damaged: evaluate without it"
        )
    return attention.float().cpu()
