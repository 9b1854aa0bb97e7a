"""Suite `alignment`: do models look where people look (paper 4.3, Fig. 3)?

A model sees the whole frame, resized to its own size; its map is resized to the frame and compared with the map of
people's fixations (sigma 19 px at 640 px width). Models are compared image by image.
"""

import itertools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError, told
from common.fixations import FixatedImage
from common.saliency import auc_judd, cc, kld, nss, resized
from trainer.evaluate.alignment_scores import METRICS, Scores, comparison, summary
from trainer.evaluate.models import Measured
from trainer.evaluate.pictures import listed
from trainer.evaluate.suite import Context, Findings, Row
from trainer.views import whole

EXAMPLES = 6


class Example(NamedTuple):
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
    examples: list[Example]
    unreadable: dict[str, dict[str, str]]


def looking(context: Context) -> Context:
    """The context with those models that predict attention. Raises UserError where none does."""
    nothing = torch.zeros(3, 64, 64, dtype=torch.uint8)
    models = [model for model in context.models if predicted(context, model, nothing) is not None]
    if not models:
        names = ", ".join(model.location for model in context.models)
        raise UserError(f"--suite alignment: expected a model that predicts attention, found none among {names}")
    return context._replace(models=models)


def run(context: Context) -> Alignment:
    """Scores of each model and of those that --compare names, with tests against chance and against each other.

    Models that predict no attention are left out, and noted.
    """
    everybody, context = context.models, looking(context)
    settings = context.settings
    images = context.data.human
    scores, unreadable = score_models(context, images)
    readable = {key: image for key, image in images.items() if key in next(iter(scores.values()))}
    foreign = context.data.compared
    everyone = scores | foreign
    summaries = {name: summary(found, settings.seed) for name, found in everyone.items()}
    results = {model.name: {name: summaries[name] for name in (model.name, *foreign)} for model in context.models}
    notes = [f"{model.name} predicts no attention." for model in everybody if model.name not in scores]
    notes += [f"{model.name}: {note}." for model in context.models for note in model.notes]
    notes += [f"{name} has scores of {len(found):,} of the {len(images):,} images." for name, found in foreign.items()]
    return Alignment(
        Findings(results, _rows(everyone), notes),
        [
            {"models": [one, other], **comparison(everyone[one], everyone[other])}
            for one, other in itertools.combinations(everyone, 2)
        ],
        {name: np.array([one["cc"] for one in found.values()]) for name, found in everyone.items()},
        examples(context, readable, scores),
        unreadable,
    )


def score_models(
    context: Context, images: Mapping[tuple[str, str], FixatedImage]
) -> tuple[dict[str, Scores], dict[str, dict[str, str]]]:
    """Each model's scores of the images that can be read; and why others cannot, by data set and name."""
    scores: dict[str, Scores] = {model.name: {} for model in context.models}
    unreadable: dict[str, dict[str, str]] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = pool.map(lambda image: _scored(context, image), images.values())
        for key, one in tqdm(
            zip(images, found, strict=True), desc="human attention", unit=" images", total=len(images)
        ):
            if isinstance(one, str):
                unreadable.setdefault(key[0], {})[key[1]] = one
            else:
                for name, metrics in one.items():
                    scores[name][key] = metrics
    if not any(scores.values()):
        reasons = [reason for by_name in unreadable.values() for reason in by_name.values()]
        raise UserError(f"--human-data: none of the {len(images):,} images can be read: {listed(reasons, 2)}")
    return scores, unreadable


def _scored(context: Context, image: FixatedImage) -> dict[str, dict[str, float]] | str:
    """Each model's scores of an image, or why it cannot be read."""
    try:
        pixels = image.pixels()
    except UserError as error:
        return told(error)
    truth = image.attention_map(image.height, image.width)
    maps = {model.name: predicted(context, model, pixels) for model in context.models}
    return {name: score(found, truth, image.fixations) for name, found in maps.items() if found is not None}


@torch.inference_mode()
def predicted(context: Context, model: Measured, pixels: Tensor) -> Tensor | None:
    """A model's map [h, w] of a whole photograph, uint8 [3, H, W], on the CPU; None from one that predicts none."""
    picture = whole(pixels, context.store.size(model))[None].to(context.device).float() / 255
    attention = model.network.attention(picture)
    return None if attention is None else attention[0].float().cpu()


def score(prediction: Tensor, truth: Tensor, fixations: np.ndarray) -> dict[str, float]:
    """A map [h, w] of 0 or more, resized to people's map [H, W], by all metrics."""
    ours, theirs = resized(prediction, truth.shape)[None], truth[None]
    return {
        "cc": cc(ours, theirs).item(),
        "nss": nss(ours, [fixations]).item(),
        "kld": kld(ours, theirs).item(),
        "auc_judd": auc_judd(ours, [fixations]).item(),
    }


def examples(
    context: Context, images: Mapping[tuple[str, str], FixatedImage], scores: Mapping[str, Scores]
) -> list[Example]:
    """Images from the first model's highest CC to its lowest, at even steps, so that nobody chose them."""
    first = next(iter(scores.values()))
    order = sorted(images, key=lambda key: -first[key]["cc"])
    steps = np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().astype(int)
    found = []
    for key in [order[step] for step in steps]:
        image = images[key]
        pixels = image.pixels()
        maps = {model.name: predicted(context, model, pixels) for model in context.models}
        shown = {name: (one, scores[name][key]["cc"]) for name, one in maps.items() if one is not None}
        found.append(Example(image.name, pixels, image.attention_map(image.height, image.width), shown))
    return found


def _rows(everyone: Mapping[str, Scores]) -> list[Row]:
    return [
        {"model": name, "data": data, "image": image, **{metric: one.get(metric) for metric in METRICS}}
        for name, found in everyone.items()
        for (data, image), one in found.items()
    ]
