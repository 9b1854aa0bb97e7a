"""The page of an evaluation: what each suite found, with the plots of the paper's Fig. 3 and Supp. 1."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from common import page
from common.page import Html
from common.text import join_names
from trainer.evaluate import glance, plots
from trainer.evaluate.corruptions import ALEXNET, CORRUPTIONS
from trainer.evaluate.suites.alignment import Alignment, AlignmentExample
from trainer.evaluate.suites.base import Context, Findings, Row

Results = Mapping[str, Mapping[str, Any]]  # of one suite, by model
Reasons = Mapping[str, str]  # why images cannot be read, by name


def report_page(
    context: Context,
    main_figures: Sequence[Row],
    found: Mapping[str, Findings],
    looked: Alignment | None,
    unreadable: Mapping[str, Mapping[str, str]],
) -> Html:
    """The whole page, self-contained."""
    makers = {"linear": linear, "imagenet-c": corruption, "retrieval": retrieval}
    sections = [makers[name](findings) for name, findings in found.items() if name in makers]
    return page.document(
        "What was learned",
        "Checkpoints measured, and compared with each other. results.json and the tables beside this page hold every "
        "figure.",
        glance.section(main_figures),
        _models(context),
        page.notes([_unreadable(place, names) for place, names in unreadable.items()]),
        *sections,
        *([_alignment(looked)] if looked else []),
    )


def linear(findings: Findings) -> Html:
    """Top-1 and top-5 of each probe."""
    rows = [
        (row["model"], row["probe"], row["images"], _percent(row["top1"]), _percent(row["top5"]))
        for row in findings.rows
    ]
    return page.section(
        "Classification",
        page.paragraph(
            "How often a linear classifier on the frozen features is right. The concurrent probe learned with the "
            "network; an offline probe learns afterwards, from the centres of the training images, not augmented."
        ),
        page.notes(findings.notes),
        page.table(["model", "probe", "images", "top-1 (%)", "top-5 (%)"], rows),
    )


def corruption(findings: Findings) -> Html:
    """Top-1 by corruption, mean over severities, as the paper's Supp. 1; and by severity."""
    results = findings.results
    first = next(iter(results.values()))
    names = [name for name in CORRUPTIONS if name in first]
    means = {model: {name: _mean(found[name]) for name in names} for model, found in results.items()}
    severities = list(first[names[0]])
    rows: list[Sequence[object]] = [
        (
            name.replace("_", " ") + ("" if name in ALEXNET else " (extra)"),
            *(_percent(by[name]) for by in means.values()),
        )
        for name in names
    ]
    for label, key in (("mean of the 15", "mean"), ("mCE (lower is better)", "mce")):
        if first[key] is not None:
            rows.append((label, *(_percent(found[key]) for found in results.values())))
    by_severity = {
        model: [
            ([int(s) for s in severities], [100 * np.mean([found[name][s] for name in names]) for s in severities], 1)
        ]
        for model, found in results.items()
    }
    return page.section(
        "Robustness: ImageNet-C",
        page.paragraph(
            "Top-1 accuracy (%) of a classifier that learned from clean images, by corruption, mean over severities. "
            "mCE is relative to AlexNet's errors, 100 is as bad."
        ),
        page.notes(findings.notes),
        plots.side_by_side(
            [
                plots.bars(
                    "Top-1 by corruption",
                    f"mean over the severities {', '.join(severities)}",
                    names,
                    {model: [100 * by[name] for name in names] for model, by in means.items()},
                    "top-1 (%)",
                ),
                plots.lines("Top-1 by severity", "mean over corruptions", by_severity, plots.SEVERITY, "top-1 (%)"),
            ]
        ),
        page.table(["corruption", *results], rows),
    )


def retrieval(findings: Findings) -> Html:
    """Precision and recall, clean and corrupted, as the paper's Supp. 1."""
    parts: list[Html] = []
    collections = list(next(iter(findings.results.values())))
    for collection in collections:
        found = {model: result[collection] for model, result in findings.results.items()}
        first = next(iter(found.values()))
        charts = [_curves(f"{collection}: mean over corruptions" if "corruptions" in first else collection, found)]
        for name in first.get("corruptions", {}):
            clean = {model: {k: v for k, v in by.items() if k == "clean"} for model, by in found.items()}
            one = {model: clean[model] | by["corruptions"][name] for model, by in found.items()}
            charts.append(_curves(f"{collection}: {name.replace('_', ' ')}", one))
        parts += [page.element("h3", collection), _precision_table(found), plots.side_by_side(charts)]
    return page.section(
        "Retrieval",
        page.paragraph(
            "Are an image's nearest neighbours, by the cosine between features, of its class? Means over queries; each "
            "point of a curve is a number k of results. The palest lines are the strongest corruption. Queries and "
            "database are corrupted alike."
        ),
        page.notes(findings.notes),
        *parts,
    )


def _precision_table(found: Results) -> Html:
    """Precision and recall at a few k."""
    rows = []
    for model, by in found.items():
        for condition, curve in by.items():
            if condition == "corruptions":
                continue
            precision, recall = (dict(zip(curve["k"], curve[name], strict=True)) for name in ("precision", "recall"))
            rows.append(
                (
                    model,
                    condition if condition == "clean" else f"severity {condition}",
                    curve["queries"],
                    *(_percent(precision[k]) if k in precision else "" for k in (1, 10, 100)),
                    *(_percent(recall[k]) if k in recall else "" for k in (10, 100)),
                )
            )
    columns = ["model", "images", "queries", "precision at 1 (%)", "at 10", "at 100", "recall at 10 (%)", "at 100"]
    return page.table(columns, rows)


def _curves(title: str, found: Results) -> Html:
    conditions = [name for name in next(iter(found.values())) if name != "corruptions"]
    return plots.lines(
        title,
        ", ".join(name if name == "clean" else f"severity {name}" for name in conditions),
        {
            model: [
                (by[name]["recall"], by[name]["precision"], 1 - 0.8 * number / max(len(conditions), 2))
                for number, name in enumerate(conditions)
            ]
            for model, by in found.items()
        },
        "recall",
        "precision",
    )


def _alignment(looked: Alignment) -> Html:
    """Agreement with people: means and tests, the histogram of Fig. 3b, the pictures of Fig. 3a."""
    summaries: dict[str, Any] = {}
    for result in looked.findings.results.values():
        summaries |= result
    summaries = {name: summaries[name] for name in looked.cc}
    rows = [
        (
            name,
            one["n"],
            f"{one['cc']:.3f} [{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}]",
            _test(one),
            *("" if one[metric] is None else f"{one[metric]:.3f}" for metric in ("nss", "kld", "auc_judd")),
        )
        for name, one in summaries.items()
    ]
    tests = [
        (
            " - ".join(test["models"]),
            f"{test['difference']:+.3f}",
            _test(test["welch"]),
            _test(test["paired"]),
            test["paired"]["n"] if test["paired"] else 0,
        )
        for test in looked.comparisons
    ]
    return page.section(
        "Attention alignment",
        page.paragraph(
            "Does a model look where people look? CC for each image between the model's map and the map of people's "
            "fixations; means with 95 % bootstrap intervals."
        ),
        page.notes(looked.findings.notes),
        page.table(["model", "images", "CC", "against 0", "NSS", "KLD (lower is better)", "AUC-Judd"], rows),
        *(
            [
                page.element("h3", "Do models differ?"),
                page.table(["models", "difference of CC", "Welch's t-test", "paired t-test", "pairs"], tests),
            ]
            if tests
            else []
        ),
        plots.side_by_side(
            [plots.histograms("CC of each image", "dashed: means", looked.cc, "CC with human attention")]
        ),
        page.element("h3", "From the first model's highest CC to its lowest, at even steps"),
        page.layer_switches(points=False, lowest="the map's minimum"),
        *(_example(example) for example in looked.examples),
    )


def _example(example: AlignmentExample) -> Html:
    """An image, people's map over it, and each model's."""
    height, width = example.pixels.shape[1:]
    photograph = Image.fromarray(example.pixels.permute(1, 2, 0).numpy())

    def under(attention: Tensor) -> Html:
        above = page.normalize_map(
            (attention - attention.amin()).numpy()
        )  # read-outs lie between 0.3 and 0.5, some of them
        return page.attention_picture(photograph, above, np.empty((0, 3)), (width, height))

    pictures = [
        page.figure(page.picture(page.thumbnail(photograph), example.name), example.name),
        page.figure(under(example.human), "people"),
        *(page.figure(under(attention), name, f"CC {cc:.2f}") for name, (attention, cc) in example.predicted.items()),
    ]
    return page.element("div", page.grid(pictures), style="margin: 1rem 0")


def _models(context: Context) -> Html:
    rows = [
        (
            model.name,
            model.about["recipe"] or "weights file",
            model.about["backbone"],
            context.store.size(model),
            "" if model.about["step"] is None else model.about["step"],
            page.breakable(model.location),
            model.sha256[:12],
        )
        for model in context.models
    ]
    columns = ["model", "recipe", "backbone", "image side", "steps", "checkpoint", "sha256"]
    return page.section("Checkpoints", page.table(columns, rows))


def _unreadable(place: str, names: Mapping[str, str]) -> str:
    reasons = [f"{name} ({reason})" for name, reason in names.items()]
    return f"{place}: {len(names):,} images cannot be read and are left out: {join_names(reasons)}"


def _test(found: Mapping[str, Any] | None) -> str:
    if not found or found["t"] is None:
        return "-"
    return f"t {found['t']:.2f}, p {found['p']:.2g}"


def _mean(by_severity: Mapping[str, float]) -> float:
    return float(np.mean(list(by_severity.values())))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
