"""Scores of human attention by image: read from tables, summed up, and compared between models."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from common.errors import UserError, describe_error
from common.intervals import bootstrap_mean

METRICS = ("cc", "nss", "kld", "auc_judd")
Scores = dict[tuple[str, str], dict[str, float]]  # metrics by data set and image


def parse_comparisons(texts: Sequence[str]) -> dict[str, Path]:
    """NAME=FILE each. Raises UserError."""
    files = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (equals and name and path) or name in files:
            raise UserError(f"--compare {text}: expected NAME=FILE, each name once")
        files[name] = Path(path)
    return files


def read_scores(name: str, path: Path, images: Sequence[tuple[str, str]]) -> Scores:
    """Scores of these images from a per_image.csv of labeler.teacher.evaluate, matched by the image's name.

    Where the table has rows of the very data set, only they count, else those of its format: an image's mouse tracking
    is not its eye tracking. Raises UserError.
    """
    where = f"--compare {name}={path}"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read as a table: {describe_error(error)}") from None
    if not rows or not rows[0].keys() >= {"image", "cc"}:
        found = ", ".join(rows[0]) if rows else "nothing"
        raise UserError(f"{where}: expected a per_image.csv with the columns image and cc, found {found}")
    scores: Scores = {}
    for data in dict.fromkeys(data for data, _ in images):
        mine = [row for row in rows if row.get("data") == data] or [row for row in rows if _of_format(row, data)]
        by_name = {row["image"]: row for row in mine}
        if len(by_name) < len(mine):
            raise UserError(f"{where}: names images of {data} more than once; expected the scores of one model")
        wanted = [image for place, image in images if place == data and image in by_name]
        scores |= {(data, image): _numbers(where, by_name[image]) for image in wanted}
    if not scores:
        raise UserError(f"{where}: holds none of the images of --human-data, such as {images[0][1]}")
    return scores


def _of_format(row: Mapping[str, str], data: str) -> bool:
    return (row.get("data") or data).partition(":")[0] == data.partition(":")[0]


def _numbers(where: str, row: Mapping[str, str]) -> dict[str, float]:
    """The metrics of an image; NaN where the table leaves them empty, which cc must not be."""
    if not row["cc"]:
        raise UserError(f"{where}: {row['image']}: expected a number as cc, found nothing")
    texts = {metric: row[metric] for metric in METRICS if row.get(metric)}
    numbers = {metric: _number(text) for metric, text in texts.items()}
    for metric, number in numbers.items():
        if not math.isfinite(number):
            raise UserError(f"{where}: {row['image']}: expected a number as {metric}, found {texts[metric]!r}")
    return {metric: math.nan for metric in METRICS if metric in row} | numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def summarize_scores(found: Scores, seed: int) -> dict[str, Any]:
    """Mean CC with its bootstrap interval, a t-test against 0, and the means of the other metrics; by data set too."""
    told_of = _summary(list(found.values()), seed)
    sets = list(dict.fromkeys(data for data, _ in found))
    by_data = {data: _summary([one for (place, _), one in found.items() if place == data], seed) for data in sets}
    return {**told_of, "data": by_data}


def _summary(scores: Sequence[Mapping[str, float]], seed: int) -> dict[str, Any]:
    values = np.array([one["cc"] for one in scores])
    means = {
        metric: bootstrap_mean(np.array([one.get(metric, math.nan) for one in scores]), seed) for metric in METRICS
    }
    return {
        "cc": means["cc"]["mean"],
        "n": len(values),
        "ci95": means["cc"]["ci95"],
        **(_tested(stats.ttest_1samp(values, 0)) if len(values) > 1 else {"t": None, "p": None}),
        **{metric: means[metric]["mean"] for metric in METRICS[1:]},
        **{f"{metric}_ci95": means[metric]["ci95"] for metric in METRICS[1:]},
    }


def compare_models(one: Scores, other: Scores) -> dict[str, Any]:
    """Do two models' CC differ? Welch's t-test of all images, and a paired one of the images that both have."""
    common = [key for key in one if key in other]
    ours, theirs = (np.array([scores["cc"] for scores in found.values()]) for found in (one, other))
    pairs = np.array([(one[key]["cc"], other[key]["cc"]) for key in common]).reshape(-1, 2)
    enough = min(len(ours), len(theirs)) > 1
    return {
        "difference": float(ours.mean() - theirs.mean()),
        "welch": _tested(stats.ttest_ind(ours, theirs, equal_var=False)) if enough else None,
        "paired": {"n": len(pairs), **_tested(stats.ttest_rel(pairs[:, 0], pairs[:, 1]))} if len(pairs) > 1 else None,
    }


def _tested(test: Any) -> dict[str, float | None]:
    """The statistic and its probability; None where values that are all equal leave none."""
    t, p = float(test.statistic), float(test.pvalue)
    return {"t": t, "p": p} if math.isfinite(t) and math.isfinite(p) else {"t": None, "p": None}
