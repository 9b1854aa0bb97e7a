"""Suite `alignment`: do models predict where people look (paper 4.2, Fig. 3)?

A model receives the whole frame, resized to its input size; its map is resized to the frame and compared with the human
attention map (fixations blurred with sigma 19 px at a width of 640 px). Models are compared image by image, and with
two controls: the attention of people on other images, and its mean, the center prior. Each model is measured with its
read-out as trained and, where possible, refit on frozen features; `--readout` selects the one in the tables.
"""

import itertools
from collections.abc import Mapping

import numpy as np

from common.alignment import METRICS, References
from common.errors import UserError
from trainer.evaluate.alignment.maps import (
    AS_TRAINED,
    REFIT,
    Images,
    Measurement,
    Version,
    group_images,
    predict_maps,
    score_models,
    with_attention,
)
from trainer.evaluate.alignment.page import AlignmentDetails, AlignmentExample, section
from trainer.evaluate.alignment.refit import refit_readouts
from trainer.evaluate.alignment.scores import ScoresByImage, compare_models, summarize_model
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.suite import MODEL, Context, Findings, Headline, Row, Suite

EXAMPLES_SHOWN = 6


def image_sets(context: Context) -> list[ImageSet]:
    """Return no sets: the suite needs maps, not pooled features.

    Raises UserError if no model predicts attention, or if --compare repeats the name of a model.
    """
    for name in context.data.compared:
        if name in {model.name for model in context.models}:
            raise UserError(f"--compare {name}=...: a checkpoint has this name; choose another")
    with_attention(context)
    return []


def run(context: Context) -> Findings:
    """Score each model, and compare them, and the tables of --compare, with chance and with each other.

    Models that predict no attention are excluded, and noted.
    """
    all_models, context = context.models, with_attention(context)
    settings, images, compared = context.settings, context.data.human, context.data.compared
    refits, omissions = refit_readouts(context)
    readouts = {name: refit.readout for name, refit in refits.items()}
    measurement = Measurement(context, images, _make_references(images, settings.seed), readouts)
    by_version, unreadable = score_models(measurement)
    selected = {
        model.name: REFIT if settings.readout == "refit" and model.name in refits else AS_TRAINED
        for model in context.models
    }
    scores = {name: by_version[name, version] for name, version in selected.items()} | compared
    version_summaries = {key: summarize_model(rows, settings.seed) for key, rows in by_version.items()}
    summaries = {name: summarize_model(rows, settings.seed) for name, rows in compared.items()} | {
        name: {
            **version_summaries[name, version],
            "readout": version.replace("_", "-"),
            "readout_note": omissions.get(name),
            "readout_fit": refits[name].to_json() if name in refits else None,
            **{key: version_summaries.get((name, key)) for key in (REFIT, AS_TRAINED)},
        }
        for name, version in selected.items()
    }
    comparisons = [
        {"models": [first, second], **compare_models(scores[first], scores[second])}
        for first, second in itertools.combinations(scores, 2)
    ]
    notes = [f"{model.name} predicts no attention." for model in all_models if model.name not in selected]
    notes += [f"{model.name}: {note}." for model in context.models for note in model.notes]
    notes += [f"{name} is measured as trained: {reason}." for name, reason in omissions.items()]
    notes += [f"{name} has scores of {len(rows):,} of the {len(images):,} images." for name, rows in compared.items()]
    return Findings(
        results={model.name: {name: summaries[name] for name in (model.name, *compared)} for model in context.models},
        rows=_rows(scores, selected),
        notes=[*notes, *context.data.exclusion_notes],
        further={
            model.name: {"alignment_tests": [test for test in comparisons if model.name in test["models"]]}
            for model in all_models
        },
        unreadable=unreadable,
        excluded=context.data.excluded,
        details=AlignmentDetails(
            comparisons,
            {name: np.array([image["cc"] for image in by_image.values()]) for name, by_image in scores.items()},
            choose_examples(measurement, by_version, selected),
        ),
    )


def choose_examples(
    measurement: Measurement, scores: Mapping[Version, ScoresByImage], selected: Mapping[str, str]
) -> list[AlignmentExample]:
    """Choose images from the first model's highest CC to its lowest, at even steps.

    Args:
        measurement: models and images.
        scores: scores by model and version of its read-out.
        selected: the version to show, by model.
    """
    first = scores[next(iter(selected.items()))]
    order = sorted(first, key=lambda key: -first[key]["cc"])
    steps = np.linspace(0, len(order) - 1, min(EXAMPLES_SHOWN, len(order))).round().astype(int)
    group_of = {key: group for group in group_images(measurement.images) for key in group}
    examples = []
    for key in [order[step] for step in steps]:
        image = measurement.images[key]
        maps, _ = predict_maps(measurement, group_of[key])
        predicted = {
            name: (maps[name, version][key], scores[name, version][key]["cc"]) for name, version in selected.items()
        }
        human = image.attention_map(image.height, image.width)
        examples.append(AlignmentExample(image.name, image.pixels(), human, predicted))
    return examples


def _make_references(images: Images, seed: int) -> dict[str, References]:
    """Return what maps are compared with, by data set."""
    return {
        data: References([image for (image_data, _), image in images.items() if image_data == data], seed)
        for data in dict.fromkeys(data for data, _ in images)
    }


def _rows(scores: Mapping[str, ScoresByImage], selected: Mapping[str, str]) -> list[Row]:
    return [
        {
            "model": name,
            "readout": selected.get(name, "").replace("_", "-"),
            "data": data,
            "image": image,
            **{metric: values.get(metric) for metric in METRICS},
        }
        for name, by_image in scores.items()
        for (data, image), values in by_image.items()
    ]


SUITE = Suite(
    position=4,
    inputs=("human_data",),
    options=("compare",),
    image_sets=image_sets,
    run=run,
    section=section,
    headlines=(Headline("cc_with_people", "CC with human attention", (MODEL, "cc"), percent=False),),
)
