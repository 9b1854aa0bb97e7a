"""Suite `imagenet-c`: top-1 accuracy on corrupted images of classifiers trained on clean ones (paper 4.4)."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common import page
from common.page import Html
from common.text import pluralize
from trainer.evaluate import plots
from trainer.evaluate.config import CONCURRENT, OFFLINE
from trainer.evaluate.images.corruptions import ALEXNET_ERRORS, CORRUPTIONS
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.suite import Context, Findings, Headline, Row, Suite, format_percent

SEVERITIES = 5
IMAGENET_CLASSES = "70002b0ff5de60a3a17a82dbfcff291931f96225ddf941ad2e182fc39e183d15"  # ls imagenet/train | sha256sum

Accuracies = dict[str, dict[int, float]]  # top-1 by corruption and severity


def image_sets(context: Context) -> list[ImageSet]:
    """Return all corrupted sets and --train.

    Raises UserError if their classes differ from a probe's, or models have no probe.
    """
    corrupted = list(context.data.corrupted.values())
    for images in corrupted:
        context.probes.check(context.models, images.classes, images.name)
    trains_probes = context.settings.probe_kind != CONCURRENT
    return [*corrupted, *filter(None, [context.data.train if trains_probes else None])]


def run(context: Context) -> Findings:
    """Measure top-1 of each model's probes by corruption and severity, the mean and mCE.

    The mean is over the 15 corruptions of mCE, each averaged over its severities. mCE is relative to AlexNet, whose
    mCE is 1. Both need all 15 corruptions, and mCE also all five severities and ImageNet's 1,000 classes; otherwise
    they are None, and a note says what is missing.
    """
    results: dict[str, dict[str, Any]] = {}
    rows: list[Row] = []
    for model in context.models:
        top1: dict[str, Accuracies] = {}
        details: dict[str, Mapping[str, Any]] = {}
        for (corruption, severity), images in context.data.corrupted.items():
            for probe in context.probes.selected(model, images.classes):
                features = context.store.get(model, images)
                accuracy = probe.accuracy(features, images.classes, context.device)
                top1.setdefault(probe.kind, {}).setdefault(corruption, {})[severity] = accuracy["top1"]
                details[probe.kind] = probe.details
                rows.append(
                    {
                        "model": model.name,
                        "corruption": corruption,
                        "severity": severity,
                        "images": len(features.vectors),
                        **accuracy,
                        "probe": probe.kind,
                    }
                )
        if top1:
            by_kind = {kind: _summarize(top1[kind], context) for kind in top1}
            main = next(iter(by_kind))
            nested = {kind: {**by_kind[kind], **details[kind]} for kind in by_kind}
            results[model.name] = {**by_kind[main], "probe": main, **nested}
    return Findings(results, rows, _notes(context))


def _summarize(top1: Accuracies, context: Context) -> dict[str, Any]:
    """Return the results of one probe for results.json."""
    return {
        **{
            corruption: {str(severity): value for severity, value in by_severity.items()}
            for corruption, by_severity in top1.items()
        },
        "mean": mean_accuracy(top1),
        "mce": mean_corruption_error(top1) if are_imagenet_classes(_classes(context)) else None,
    }


def are_imagenet_classes(classes: Sequence[str]) -> bool:
    """Whether these are the WordNet IDs of ImageNet's 1,000 classes, in any order.

    Other names cannot be recognized, and the number of classes alone does not show that AlexNet's errors apply.
    """
    lines = "".join(f"{name}\n" for name in sorted(classes))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest() == IMAGENET_CLASSES


def mean_accuracy(top1: Accuracies) -> float | None:
    """Average top-1 over the 15 corruptions of mCE, each averaged over its severities; None if one is missing."""
    if not top1.keys() >= ALEXNET_ERRORS.keys():
        return None
    return float(np.mean([np.mean(list(top1[name].values())) for name in ALEXNET_ERRORS]))


def mean_corruption_error(top1: Accuracies) -> float | None:
    """Compute mCE (Hendrycks and Dietterich 2019): mean over corruptions of the error relative to AlexNet's.

    None unless all 15 corruptions have all five severities.
    """
    if not all(len(top1.get(name, {})) == SEVERITIES for name in ALEXNET_ERRORS):
        return None
    return float(np.mean([(1 - np.mean(list(top1[name].values()))) / error for name, error in ALEXNET_ERRORS.items()]))


def section(findings: Findings) -> Html:
    """Show top-1 by corruption, averaged over severities (as the paper's Table Supp.1), and by severity."""
    results = findings.results
    probes = {
        f"{model}, {kind} probe": result[kind]
        for model, result in results.items()
        for kind in (CONCURRENT, OFFLINE)
        if kind in result
    }
    first = next(iter(results.values()))
    names = [name for name in CORRUPTIONS if name in first]
    means = {model: {name: _mean(result[name]) for name in names} for model, result in results.items()}
    severities = list(first[names[0]])
    rows: list[Sequence[object]] = [
        (
            name.replace("_", " ") + ("" if name in ALEXNET_ERRORS else " (extra)"),
            *(format_percent(_mean(result[name])) for result in probes.values()),
        )
        for name in names
    ]
    for label, key in (("mean of the 15", "mean"), ("mCE (lower is better)", "mce")):
        if first[key] is not None:
            rows.append((label, *(format_percent(result[key]) for result in probes.values())))
    numbers = [int(severity) for severity in severities]
    by_severity = {
        model: [(numbers, [100 * np.mean([result[name][severity] for name in names]) for severity in severities], 1)]
        for model, result in results.items()
    }
    return page.section(
        "Robustness: ImageNet-C",
        page.paragraph(
            "Top-1 accuracy (%) of classifiers trained on clean images, by corruption, averaged over severities. mCE "
            "is the mean error relative to AlexNet's, which is 100. Plots show the concurrent probe of a model that "
            "was measured with both."
        ),
        page.notes(findings.notes),
        plots.arrange_charts(
            [
                plots.bar_chart(
                    "Top-1 by corruption",
                    f"mean over the severities {', '.join(severities)}",
                    names,
                    {model: [100 * by_corruption[name] for name in names] for model, by_corruption in means.items()},
                    "top-1 (%)",
                ),
                plots.line_chart(
                    "Top-1 by severity", "mean over corruptions", by_severity, plots.SEVERITY, "top-1 (%)"
                ),
            ]
        ),
        page.table(["corruption", *probes], rows),
    )


def _mean(by_severity: Mapping[str, float]) -> float:
    return float(np.mean(list(by_severity.values())))


def _notes(context: Context) -> list[str]:
    """Describe how the images were made, and what was not measured."""
    settings, corrupted = context.settings, context.data.corrupted
    first = next(iter(corrupted.values()))
    classes = first.classes
    notes = context.probes.notes(context.models, classes)
    if not settings.imagenet_c:
        notes.append(
            f"Images of --val ({len(first.names):,}) were corrupted like those of ImageNet-C: center crop at 224 px, "
            "corruption, JPEG quality 85. Accuracy on the published ImageNet-C differs slightly."
        )
    if settings.images is not None:
        notes.append(f"Only {pluralize(len(first.names), 'image')} per set, drawn with the seed {settings.seed}.")
    if not are_imagenet_classes(classes):
        notes.append(
            "No mCE: it is relative to AlexNet's errors on ImageNet's 1,000 classes, which are expected by their "
            f"WordNet IDs; found {len(classes):,} other classes, such as {classes[0]}."
        )
    if missing := [name for name in ALEXNET_ERRORS if name not in {corruption for corruption, _ in corrupted}]:
        notes.append(f"No mean and no mCE, which need all 15 corruptions: without {', '.join(missing)}.")
    if len(set(settings.severities)) < SEVERITIES:
        notes.append(f"Only the severities {', '.join(map(str, sorted(set(settings.severities))))}, so no mCE.")
    return notes


def _classes(context: Context) -> list[str]:
    """Return the names of the class folders, which all corrupted sets share."""
    return next(iter(context.data.corrupted.values())).classes


SUITE = Suite(
    position=2,
    inputs=("imagenet_c", "val"),
    default_inputs=("imagenet_c",),  # --val's images are corrupted only if the suite is asked for
    image_sets=image_sets,
    run=run,
    section=section,
    headlines=(Headline("imagenet_c_mean", "corrupted, mean top-1 (%)", ("mean",)),),
)
