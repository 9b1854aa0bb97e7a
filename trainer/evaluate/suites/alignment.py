"""Suite `alignment`: do models look where people look (paper 4.3, Fig. 3)?

A model sees the whole frame, resized to its own size; its map is resized to the frame and compared with the map of
people's fixations (sigma 19 px at 640 px width). Models are compared image by image.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError, describe_error
from common.fixations import FixatedImage
from common.progress import progress_bar
from common.saliency import score_map
from common.text import join_names
from trainer.data.crops import resize_frame
from trainer.evaluate.alignment_scores import METRICS, Scores, compare_models, summarize_scores
from trainer.evaluate.models import EvaluatedModel
from trainer.evaluate.suites.base import Context, Findings, Row

EXAMPLES = 6
GROUP = 32  # images

Key = tuple[str, str]  # data set and image
Images = Mapping[Key, FixatedImage]


class AlignmentExample(NamedTuple):
    """An image, people's map of it [H, W], and each model's with its CC."""

    name: str
    pixels: Tensor
    human: Tensor
    predicted: dict[str, tuple[Tensor, float]]


class Alignment(NamedTuple):
    """What the suite finds; comparisons of each pair of models; CC by image for the histogram; examples to look at."""

    findings: Findings
    comparisons: list[dict[str, Any]]
    cc: dict[str, np.ndarray]
    examples: list[AlignmentExample]
    unreadable: dict[str, dict[str, str]]


def with_attention(context: Context) -> Context:
    """The context with those models that predict attention. Raises UserError where none does."""
    nothing = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2
    models = [model for model in context.models if predict_attention(context, model, nothing) is not None]
    if not models:
        names = ", ".join(model.location for model in context.models)
        raise UserError(f"--suite alignment: expected a model that predicts attention, found none among {names}")
    return context._replace(models=models)


def run(context: Context) -> Alignment:
    """Scores of each model and of those that --compare names, with tests against chance and against each other.

    Models that predict no attention are left out, and noted.
    """
    everybody, context = context.models, with_attention(context)
    settings = context.settings
    images = context.data.human
    scores, unreadable = score_models(context, images)
    foreign = context.data.compared
    everyone = scores | foreign
    summaries = {name: summarize_scores(found, settings.seed) for name, found in everyone.items()}
    results = {model.name: {name: summaries[name] for name in (model.name, *foreign)} for model in context.models}
    notes = [f"{model.name} predicts no attention." for model in everybody if model.name not in scores]
    notes += [f"{model.name}: {note}." for model in context.models for note in model.notes]
    notes += [f"{name} has scores of {len(found):,} of the {len(images):,} images." for name, found in foreign.items()]
    return Alignment(
        Findings(results, _rows(everyone), [*notes, *context.data.human_notes]),
        [
            {"models": [one, other], **compare_models(everyone[one], everyone[other])}
            for one, other in itertools.combinations(everyone, 2)
        ],
        {name: np.array([one["cc"] for one in found.values()]) for name, found in everyone.items()},
        choose_examples(context, images, scores),
        unreadable,
    )


def score_models(context: Context, images: Images) -> tuple[dict[str, Scores], dict[str, dict[str, str]]]:
    """Each model's scores of the images that can be read; and why others cannot, by data set and name."""
    scores: dict[str, Scores] = {model.name: {} for model in context.models}
    unreadable: dict[str, dict[str, str]] = {}
    with (
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        progress_bar(desc="human attention", unit=" images", total=len(images)) as bar,
    ):
        for found, failed in pool.map(partial(_scored, context, images), group_images(images)):
            bar.update(len(next(iter(found.values()), ())) + len(failed))
            for (data, name), reason in failed.items():
                unreadable.setdefault(data, {})[name] = reason
            for model, of_images in found.items():
                scores[model] |= of_images
    if not any(scores.values()):
        reasons = [reason for by_name in unreadable.values() for reason in by_name.values()]
        raise UserError(f"--human-data: none of the {len(images):,} images can be read: {join_names(reasons, 2)}")
    return scores, unreadable


def group_images(images: Images) -> list[list[Key]]:
    """The images that models look at together, about GROUP of them: ContraCAM's maps depend on what stands beside."""
    keys = list(images)
    ends = np.linspace(0, len(keys), -(-len(keys) // GROUP) + 1).round().astype(int)
    return [keys[first:end] for first, end in itertools.pairwise(ends)]


def predict_maps(
    context: Context, images: Images, group: Sequence[Key]
) -> tuple[dict[str, dict[Key, Tensor]], dict[Key, str]]:
    """Each model's maps of a group's images, and why some of them cannot be read."""
    pixels: dict[Key, Tensor] = {}
    failed: dict[Key, str] = {}
    for key in group:
        try:
            pixels[key] = images[key].pixels()
        except UserError as error:
            failed[key] = describe_error(error)
    maps = {}
    for model in context.models if pixels else []:
        found = predict_attention(context, model, list(pixels.values()))
        assert found is not None, "models that predict none were left out"
        maps[model.name] = dict(zip(pixels, found, strict=True))
    return maps, failed


def _scored(context: Context, images: Images, group: Sequence[Key]) -> tuple[dict[str, Scores], dict[Key, str]]:
    """Each model's scores of a group's images, and why some of them cannot be read."""
    maps, failed = predict_maps(context, images, group)
    scores: dict[str, Scores] = {model: {} for model in maps}
    for key in [key for key in group if key not in failed]:
        truth = images[key].attention_map(images[key].height, images[key].width)
        for model, found in maps.items():
            scores[model][key] = score_map(found[key], truth, images[key].fixations)
    return scores, failed


@torch.no_grad()  # not inference_mode: ContraCAM needs slopes
def predict_attention(context: Context, model: EvaluatedModel, pixels: Sequence[Tensor]) -> Tensor | None:
    """A model's maps [n, h, w] of whole photographs, each uint8 [3, H, W], on the CPU; None from one without.

    Raises UserError where its maps need other images beside, and there is only one, and for maps that are no numbers.
    """
    pictures = (
        torch.stack([resize_frame(one, context.store.size(model)) for one in pixels]).to(context.device).float() / 255
    )
    try:
        attention = model.network.attention(pictures)
    except ValueError as error:
        raise UserError(f"--human-data: {model.name}: {describe_error(error)}") from None
    if attention is None:
        return None
    if not attention.isfinite().all():
        raise UserError(
            f"{model.location}: expected numbers as attention, found NaN or infinity; its weights have diverged or are "
            "damaged: leave it out"
        )
    return attention.float().cpu()


def choose_examples(context: Context, images: Images, scores: Mapping[str, Scores]) -> list[AlignmentExample]:
    """Images from the first model's highest CC to its lowest, at even steps, so that nobody chose them."""
    first = next(iter(scores.values()))
    order = sorted(first, key=lambda key: -first[key]["cc"])
    steps = np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().astype(int)
    together = {key: group for group in group_images(images) for key in group}
    found = []
    for key in [order[step] for step in steps]:
        image = images[key]
        maps, _ = predict_maps(context, images, together[key])
        shown = {name: (of_images[key], scores[name][key]["cc"]) for name, of_images in maps.items()}
        human = image.attention_map(image.height, image.width)
        found.append(AlignmentExample(image.name, image.pixels(), human, shown))
    return found


def _rows(everyone: Mapping[str, Scores]) -> list[Row]:
    return [
        {"model": name, "data": data, "image": image, **{metric: one.get(metric) for metric in METRICS}}
        for name, found in everyone.items()
        for (data, image), one in found.items()
    ]
