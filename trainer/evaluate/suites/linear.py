"""Suite `linear`: top-1 and top-5 accuracy of linear probes on frozen features (paper 4.3, Table 1).

The concurrent probe was trained with the network, on augmented views. The offline probe is trained on features of
--train's images, extracted once from center crops without augmentation. Both are measured on center crops of --val.
"""

from common import page
from common.page import Html
from trainer.evaluate.images.image_sets import ImageSet
from trainer.evaluate.probes import Classifier
from trainer.evaluate.suite import Context, Findings, Headline, Suite, format_percent


def image_sets(context: Context) -> list[ImageSet]:
    """Return --val and --train. Raises UserError if their classes differ from a probe's, or a model has no probe."""
    val = context.data.require_val()
    for model in context.models:
        context.probes.check(model, val.classes, "--val")
    return [val, *filter(None, [context.data.train])]


def run(context: Context) -> Findings:
    """Measure top-1 and top-5 of each model's probes."""
    val = context.data.require_val()
    results, rows = {}, []
    for model in context.models:
        features = context.store.get(model, val)
        candidates = (context.probes.concurrent(model, val.classes), context.probes.offline(model))
        probes: list[Classifier] = [probe for probe in candidates if probe]
        scores = {probe.kind: probe.accuracy(features, val.classes, context.device) for probe in probes}
        main = probes[0].kind
        results[model.name] = {**scores[main], "probe": main, "images": len(features.vectors), **scores}
        rows += [
            {"model": model.name, "probe": kind, "images": len(features.vectors), **accuracy}
            for kind, accuracy in scores.items()
        ]
    return Findings(results, rows, context.probes.notes(context.models, val.classes))


def section(findings: Findings) -> Html:
    """Show top-1 and top-5 of each probe."""
    rows = [
        (row["model"], row["probe"], row["images"], format_percent(row["top1"]), format_percent(row["top5"]))
        for row in findings.rows
    ]
    return page.section(
        "Classification",
        page.paragraph(
            "Accuracy of linear classifiers on frozen features. The concurrent probe was trained with the network; an "
            "offline probe is trained afterwards, on center crops of the training images without augmentation."
        ),
        page.notes(findings.notes),
        page.table(["model", "probe", "images", "top-1 (%)", "top-5 (%)"], rows),
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
    ),
)
