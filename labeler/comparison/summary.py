"""Summaries of the figures of all compared images: overall, and by class."""

from typing import Any

import numpy as np

from labeler.comparison.figures import FIGURES
from labeler.comparison.labeling import Labeling
from labeler.inspection.summary import compute_quantiles


def summarize_figures(figures: np.ndarray) -> dict[str, Any]:
    """Return mean, quantiles and number of images of each figure, over the images that have it."""
    summary = {}
    for name, values in zip(FIGURES, figures.T, strict=True):
        present = values[~np.isnan(values)]
        mean = float(present.mean()) if len(present) else None
        summary[name] = {"mean": mean, **compute_quantiles(present), "images": len(present)}
    return summary


def summarize_classes(
    sides: tuple[Labeling, Labeling],
    matched: tuple[np.ndarray, np.ndarray],
    wnids: np.ndarray,
    figures: np.ndarray,
) -> dict[str, dict[str, Any]] | None:
    """Return the numbers of images and the means of the figures by class name; None without classes.

    The class of a common image is that in A.

    Args:
        sides: the labelings A and B.
        matched: positions of the common images in the rows of A and of B.
        wnids: class of each compared image, an index into A's list of names.
        figures: figures of the compared images, [images, figures].
    """
    names = sorted({name for side in sides for name in side.wnids if name})
    if not names:
        return None
    position = {name: index for index, name in enumerate(names)}
    indices = [np.array([position.get(name, len(names)) for name in side.wnids]) for side in sides]  # unnamed: the last
    only = []
    for side, in_side, index in zip(sides, matched, indices, strict=True):
        unmatched = np.ones(len(side.rows), bool)
        unmatched[in_side] = False
        only.append(np.bincount(index[side.rows["wnid"][unmatched]], minlength=len(names) + 1).tolist())
    classes = indices[0][wnids]
    compared = np.bincount(classes[~np.isnan(figures[:, 0])], minlength=len(names) + 1).tolist()
    means = [_mean_by_class(values, classes, len(names)) for values in figures.T]
    return {
        name: {"compared": compared[index], "only_a": only[0][index], "only_b": only[1][index]}
        | {figure: values[index] for figure, values in zip(FIGURES, means, strict=True)}
        for index, name in enumerate(names)
    }


def _mean_by_class(values: np.ndarray, classes: np.ndarray, number: int) -> list[float | None]:
    """Return the mean of the values that are not NaN for each class; None for a class without any."""
    present = ~np.isnan(values)
    counts = np.bincount(classes[present], minlength=number)
    sums = np.bincount(classes[present], values[present], minlength=number)
    return [total / count if count else None for total, count in zip(sums.tolist(), counts.tolist(), strict=True)]
