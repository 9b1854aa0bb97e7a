"""Suite `alignment`: do models predict where people look (paper 4.2, Fig. 3)?

A model receives the whole frame, resized to its input size; its map is resized to the frame and compared with the human
attention map (fixations blurred with sigma 19 px at a width of 640 px). Models are compared image by image.
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from common import page
from common.errors import UserError
from common.page import Html
from trainer.evaluate import plots
from trainer.evaluate.alignment_scores import ALIGNMENT_METRICS, Scores, compare_models, summarize_scores
from trainer.evaluate.attention_maps import Images, group_images, predict_maps, score_models, with_attention
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.suite import MODEL, Context, Findings, Headline, Row, Suite

EXAMPLES_SHOWN = 6


class AlignmentExample(NamedTuple):
    """An image for the report: its pixels, human attention map [H, W], and each model's map with its CC."""

    name: str
    pixels: Tensor
    human: Tensor
    predicted: dict[str, tuple[Tensor, float]]


class AlignmentDetails(NamedTuple):
    """What the report shows: tests between pairs of models, CC of each image by model, and examples."""

    comparisons: list[dict[str, Any]]
    cc: dict[str, np.ndarray]
    examples: list[AlignmentExample]


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
    settings, images = context.settings, context.data.human
    own_scores, unreadable = score_models(context, images)
    compared = context.data.compared
    scores = own_scores | compared
    summaries = {name: summarize_scores(by_image, settings.seed) for name, by_image in scores.items()}
    comparisons = [
        {"models": [first, second], **compare_models(scores[first], scores[second])}
        for first, second in itertools.combinations(scores, 2)
    ]
    notes = [f"{model.name} predicts no attention." for model in all_models if model.name not in own_scores]
    notes += [f"{model.name}: {note}." for model in context.models for note in model.notes]
    notes += [f"{name} has scores of {len(rows):,} of the {len(images):,} images." for name, rows in compared.items()]
    return Findings(
        results={model.name: {name: summaries[name] for name in (model.name, *compared)} for model in context.models},
        rows=_rows(scores),
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
            choose_examples(context, images, own_scores),
        ),
    )


def choose_examples(context: Context, images: Images, scores: Mapping[str, Scores]) -> list[AlignmentExample]:
    """Choose images from the first model's highest CC to its lowest, at even steps."""
    first = next(iter(scores.values()))
    order = sorted(first, key=lambda key: -first[key]["cc"])
    steps = np.linspace(0, len(order) - 1, min(EXAMPLES_SHOWN, len(order))).round().astype(int)
    group_of = {key: group for group in group_images(images) for key in group}
    examples = []
    for key in [order[step] for step in steps]:
        image = images[key]
        maps, _ = predict_maps(context, images, group_of[key])
        predicted = {name: (by_image[key], scores[name][key]["cc"]) for name, by_image in maps.items()}
        human = image.attention_map(image.height, image.width)
        examples.append(AlignmentExample(image.name, image.pixels(), human, predicted))
    return examples


def _rows(scores: Mapping[str, Scores]) -> list[Row]:
    return [
        {"model": name, "data": data, "image": image, **{metric: values.get(metric) for metric in ALIGNMENT_METRICS}}
        for name, by_image in scores.items()
        for (data, image), values in by_image.items()
    ]


def section(findings: Findings) -> Html:
    """Show means and tests, the histogram of the paper's Fig. 3b, and maps as in Fig. 3a."""
    details: AlignmentDetails = findings.details
    return page.section(
        "Attention alignment",
        page.paragraph(
            "Does a model look where people look? CC of each image between the model's map and the human attention "
            "map; means with 95 % bootstrap intervals."
        ),
        page.notes(findings.notes),
        _means_table(findings),
        *_tests_table(details),
        plots.arrange_charts(
            [plots.histogram_chart("CC of each image", "dashed: means", details.cc, "CC with human attention")]
        ),
        page.element("h3", "From the first model's highest CC to its lowest, at even steps"),
        page.layer_switches(points=False, lowest="the map's minimum"),
        *(_example_figures(example) for example in details.examples),
    )


def _means_table(findings: Findings) -> Html:
    summaries: dict[str, Any] = {}
    for result in findings.results.values():
        summaries |= result
    rows = []
    for name in findings.details.cc:
        summary = summaries[name]
        low, high = summary["ci95"]
        others = ("" if summary[metric] is None else f"{summary[metric]:.3f}" for metric in ("nss", "kld", "auc_judd"))
        rows.append(
            (name, summary["n"], f"{summary['cc']:.3f} [{low:.3f}, {high:.3f}]", _format_test(summary), *others)
        )
    return page.table(["model", "images", "CC", "against 0", "NSS", "KLD (lower is better)", "AUC-Judd"], rows)


def _tests_table(details: AlignmentDetails) -> list[Html]:
    """Return a heading and the table of tests between pairs of models; nothing for a single model."""
    rows = [
        (
            " - ".join(test["models"]),
            f"{test['difference']:+.3f}",
            _format_test(test["welch"]),
            _format_test(test["paired"]),
            test["paired"]["n"] if test["paired"] else 0,
        )
        for test in details.comparisons
    ]
    if not rows:
        return []
    columns = ["models", "difference of CC", "Welch's t-test", "paired t-test", "pairs"]
    return [page.element("h3", "Do models differ?"), page.table(columns, rows)]


def _format_test(test: Mapping[str, Any] | None) -> str:
    if not test or test["t"] is None:
        return "-"
    return f"t {test['t']:.2f}, p {test['p']:.2g}"


def _example_figures(example: AlignmentExample) -> Html:
    """Show an image, the human attention map over it, and each model's map over it."""
    height, width = example.pixels.shape[1:]
    photograph = Image.fromarray(example.pixels.permute(1, 2, 0).numpy())

    def overlay(attention: Tensor) -> Html:
        # relative to the minimum: some read-outs only vary between 0.3 and 0.5
        normalized = page.normalize_map((attention - attention.amin()).numpy())
        return page.attention_picture(photograph, normalized, np.empty((0, 3)), (width, height))

    figures = [
        page.figure(page.picture(page.thumbnail(photograph), example.name), example.name),
        page.figure(overlay(example.human), "human attention"),
        *(page.figure(overlay(attention), name, f"CC {cc:.2f}") for name, (attention, cc) in example.predicted.items()),
    ]
    return page.element("div", page.grid(figures), style="margin: 1rem 0")


SUITE = Suite(
    position=4,
    inputs=("human_data",),
    options=("compare",),
    image_sets=image_sets,
    run=run,
    section=section,
    headlines=(Headline("cc_with_people", "CC with human attention", (MODEL, "cc"), percent=False),),
)
