"""Suite `linear`: top-1 and top-5 accuracy of classifiers of frozen features (paper 4.3, Table 1).

The concurrent probe was trained with the network, on augmented views; with --norm batch it standardizes the features by
a batch norm without scale and offset. The offline probe is trained on standardized features of --train's images,
extracted once from center crops without augmentation; its weight decay is chosen on a held-out fifth of them. The
nearest neighbors of --train need no training. All are measured on center crops of --val.
"""

from common import page
from common.page import Html
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.suite import Context, Findings, Headline, Suite, format_percent

NAMES = {"knn_20": "20 nearest neighbors", "knn_200": "200 nearest neighbors"}  # of kinds, in the report


def image_sets(context: Context) -> list[ImageSet]:
    """Return --val and --train. Raises UserError if their classes differ from a probe's, or models have no probe."""
    val = context.data.require_val()
    context.probes.check(context.models, val.classes, "--val")
    return [val, *filter(None, [context.data.train])]


def run(context: Context) -> Findings:
    """Measure top-1 and top-5 of each model's probes and, with --train, of its nearest neighbors."""
    val = context.data.require_val()
    results, rows = {}, []
    for model in context.models:
        probes = context.probes.selected(model, val.classes)
        if not probes:
            continue
        features = context.store.get(model, val)
        classifiers = [*probes, *context.probes.nearest_neighbors(model)]
        scores = {item.kind: item.accuracy(features, val.classes, context.device) for item in classifiers}
        main, images = probes[0].kind, len(features.vectors)
        details = {item.kind: {**scores[item.kind], **item.details} for item in classifiers}
        results[model.name] = {**scores[main], "probe": main, "images": images, **details}
        rows += [
            {
                "model": model.name,
                "probe": item.kind,
                "images": images,
                **scores[item.kind],
                "weight_decay": item.details.get("weight_decay"),
            }
            for item in classifiers
        ]
    return Findings(results, rows, context.probes.notes(context.models, val.classes))


def section(findings: Findings) -> Html:
    """Show top-1 and top-5 of each classifier."""
    rows = [
        (
            row["model"],
            NAMES.get(row["probe"], row["probe"]),
            row["images"],
            format_percent(row["top1"]),
            format_percent(row["top5"]),
            "" if row["weight_decay"] is None else f"{row['weight_decay']:g}",
        )
        for row in findings.rows
    ]
    return page.section(
        "Classification",
        page.paragraph(
            "Accuracy of classifiers of frozen features. The concurrent probe is linear, was trained with the network "
            "on augmented views, and standardizes the features if the network has batch norm. An offline probe is "
            "linear and trained afterwards, on standardized features of center crops of the training images without "
            "augmentation; its weight decay is chosen on a held-out fifth of them. Neighbors are training images, and "
            "vote by their cosine."
        ),
        page.notes(findings.notes),
        page.table(["model", "classifier", "images", "top-1 (%)", "top-5 (%)", "weight decay"], rows),
    )


SUITE = Suite(
    position=1,
    inputs=("val",),
    image_sets=image_sets,
    run=run,
    section=section,
    headlines=(
        Headline("concurrent_top1", "top-1, concurrent probe (%)", ("concurrent", "top1")),
        Headline("offline_top1", "top-1, offline probe (%)", ("offline", "top1")),
        Headline("knn_20_top1", "top-1, 20 nearest neighbors (%)", ("knn_20", "top1")),
    ),
)
