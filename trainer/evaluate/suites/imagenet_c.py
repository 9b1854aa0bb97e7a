"""Suite `imagenet-c`: how often a classifier that learned from clean images is right on corrupted ones (paper 4.4)."""

import numpy as np

from trainer.evaluate.corruptions import ALEXNET
from trainer.evaluate.image_sets import ImageSet
from trainer.evaluate.suites.base import Context, Findings

Accuracies = dict[str, dict[int, float]]  # top-1 by corruption and severity


def sets(context: Context) -> list[ImageSet]:
    """The images whose features are needed. Raises UserError where classes differ or a model has no probe."""
    needed = list(context.data.corrupted.values())
    for pictures in needed:
        for model in context.models:
            context.probes.check(model, pictures.classes, pictures.name)
    return [*needed, *filter(None, [context.data.train])]


def run(context: Context) -> Findings:
    """Top-1 of each model by corruption and severity, their mean and mCE.

    The mean is over the 15 corruptions of mCE, each over its severities; mCE is relative to AlexNet (1 is as bad). Both
    need all 15, mCE all five severities too; else they are None and a note says what is missing.
    """
    results, rows = {}, []
    for model in context.models:
        top1: Accuracies = {}
        kinds = set()
        for (corruption, severity), pictures in context.data.corrupted.items():
            probe = context.probes.best_known(model, pictures.classes)
            found = context.store.get(model, pictures)
            accuracy = probe.accuracy(found, pictures.classes, context.device)
            top1.setdefault(corruption, {})[severity] = accuracy["top1"]
            kinds.add(probe.kind)
            rows.append(
                {
                    "model": model.name,
                    "corruption": corruption,
                    "severity": severity,
                    "images": len(found.rows),
                    **accuracy,
                }
            )
        results[model.name] = {
            **{name: {str(severity): value for severity, value in by.items()} for name, by in top1.items()},
            "mean": mean_accuracy(top1),
            "mce": mean_corruption_error(top1),
            "probe": ", ".join(kinds),
        }
    return Findings(results, rows, _notes(context))


def mean_accuracy(top1: Accuracies) -> float | None:
    """Over the 15 corruptions of mCE, each the mean over its severities; None where one is missing."""
    if not top1.keys() >= ALEXNET.keys():
        return None
    return float(np.mean([np.mean(list(top1[name].values())) for name in ALEXNET]))


def mean_corruption_error(top1: Accuracies) -> float | None:
    """Mean corruption error (Hendrycks and Dietterich 2019): each corruption's mean error over AlexNet's, averaged."""
    if not all(len(top1.get(name, {})) == 5 for name in ALEXNET):
        return None
    return float(np.mean([(1 - np.mean(list(top1[name].values()))) / error for name, error in ALEXNET.items()]))


def _notes(context: Context) -> list[str]:
    """What was measured, where it is less than all."""
    settings, sets = context.settings, context.data.corrupted
    first = next(iter(sets.values()))
    notes = context.probes.notes(context.models, first.classes)
    if not settings.imagenet_c:
        notes.append(
            f"The corrupted images were made from the {len(first.names):,} images of --val, as ImageNet-C's were: at "
            "224 px, JPEG quality 85. Figures on the published ImageNet-C differ a little."
        )
    if settings.images is not None:
        notes.append(f"Only {len(first.names):,} images, drawn by the seed {settings.seed}, were corrupted.")
    if missing := [name for name in ALEXNET if name not in {corruption for corruption, _ in sets}]:
        notes.append(f"No mean and no mCE, which need all 15 corruptions: without {', '.join(missing)}.")
    if len(set(settings.severities)) < 5:
        notes.append(f"Only the severities {', '.join(map(str, sorted(set(settings.severities))))}, so no mCE.")
    return notes
