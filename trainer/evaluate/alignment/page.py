"""The report section of the suite `alignment`: scores with their controls, tests, read-outs, and maps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from common import page
from common.alignment import EXPLANATION
from common.intervals import format_estimate
from common.page import Html
from trainer.evaluate import plots
from trainer.evaluate.suite import Findings

READOUT_EXPLANATION = (
    "A model's map is a linear read-out of three feature maps: three weights and a bias. How well these are trained "
    "depends on the recipe's learning rate, so they are refit on frozen features, the same way for every model: they "
    "minimize the attention loss on the teacher's maps of a labeled data set. Human attention maps are never used."
)
# columns of the table of further metrics, by key
FURTHER_METRICS = {"nss": "NSS", "kld": "KLD (lower is better)", "auc_judd": "AUC-Judd", "auc_shuffled": "shuffled AUC"}

Summaries = Mapping[str, Mapping[str, Any]]  # by model


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


def section(findings: Findings) -> Html:
    """Show means and tests, the histogram of the paper's Fig. 3b, and maps as in Fig. 3a."""
    details: AlignmentDetails = findings.details
    found = {name: summary for result in findings.results.values() for name, summary in result.items()}
    summaries = {name: found[name] for name in details.cc}
    return page.section(
        "Attention alignment",
        page.paragraph("Does a model look where people look? Means over images with 95 % bootstrap intervals."),
        page.paragraph(EXPLANATION),
        page.notes(findings.notes),
        _controls_table(summaries),
        _metrics_table(summaries),
        *_tests_table(details),
        *_readouts_table(summaries),
        plots.arrange_charts(
            [plots.histogram_chart("CC of each image", "dashed: means", details.cc, "CC with human attention")]
        ),
        page.element("h3", "From the first model's highest CC to its lowest, at even steps"),
        page.layer_switches(points=False, lowest="the map's minimum"),
        *(_example_figures(example) for example in details.examples),
    )


def _controls_table(summaries: Summaries) -> Html:
    """Show CC next to its controls."""
    rows = [
        (
            name,
            summary.get("readout", "-"),
            summary["n"],
            _format_mean(summary, "cc"),
            _format_mean(summary, "cc_permuted"),
            _format_mean(summary, "cc_center"),
            _format_mean(summary, "gain", "+.3f"),
            _format_test(summary),
        )
        for name, summary in summaries.items()
    ]
    columns = ["model", "read-out", "images", "CC", "CC, permuted targets", "CC, center prior"]
    return page.table([*columns, "gain over the center prior", "CC against 0"], rows)


def _metrics_table(summaries: Summaries) -> Html:
    """Show the other metrics."""
    rows = [
        (name, *(_format_mean(summary, metric) for metric in FURTHER_METRICS)) for name, summary in summaries.items()
    ]
    return page.table(["model", *FURTHER_METRICS.values()], rows)


def _readouts_table(summaries: Summaries) -> list[Html]:
    """Return heading, explanation and table of both versions of the read-outs that were refit; nothing without any."""
    rows = []
    for name, summary in summaries.items():
        if fit := summary.get("readout_fit"):
            parameters = ", ".join(f"{value:.3g}" for value in (*fit["weights"], fit["bias"]))
            means = (_format_mean(summary[version], "cc") for version in ("as_trained", "refit"))
            rows.append((name, *means, parameters, f"{fit['loss']:.3f}", fit["images"], page.breakable(fit["data"])))
    if not rows:
        return []
    columns = ["model", "CC as trained", "CC refit", "weights, bias", "attention loss", "images", "fitted on"]
    return [page.element("h3", "Read-outs"), page.paragraph(READOUT_EXPLANATION), page.table(columns, rows)]


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


def _format_mean(summary: Mapping[str, Any], metric: str, number: str = ".3f") -> str:
    interval = "ci95" if metric == "cc" else f"{metric}_ci95"
    return format_estimate({"mean": summary[metric], "ci95": summary[interval]}, number)


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
