"""Suite `linear`: how often linear classifiers on frozen features are right (paper 4.2, Table 1).

The concurrent probe learned with the network, from augmented views. The offline probe learns from the features of
--train's images, extracted once: of their centres, without augmentation. Both see the centre of --val's images.
"""

from trainer.evaluate.image_sets import ImageSet
from trainer.evaluate.probes import Classifier
from trainer.evaluate.suites.base import Context, Findings


def sets(context: Context) -> list[ImageSet]:
    """The images whose features are needed. Raises UserError where classes differ or a model has no probe."""
    val = context.clean()
    for model in context.models:
        context.probes.check(model, val.classes, "--val")
    return [val, *filter(None, [context.data.train])]


def run(context: Context) -> Findings:
    """Top-1 and top-5 of each model's probes."""
    val = context.clean()
    results, rows = {}, []
    for model in context.models:
        found = context.store.get(model, val)
        both = (context.probes.concurrent(model, val.classes), context.probes.offline(model))
        probes: list[Classifier] = [probe for probe in both if probe]
        scores = {probe.kind: probe.accuracy(found, val.classes, context.device) for probe in probes}
        best = probes[0].kind
        results[model.name] = {**scores[best], "probe": best, "images": len(found.rows), **scores}
        rows += [
            {"model": model.name, "probe": kind, "images": len(found.rows), **accuracy}
            for kind, accuracy in scores.items()
        ]
    return Findings(results, rows, context.probes.notes(context.models, val.classes))
