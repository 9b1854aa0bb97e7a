"""Scores of attention maps against human attention, image by image: read from tables, summarized and compared."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from common.alignment import EARLIER_METRIC_NAMES, METRICS, score_values, summarize_scores
from common.errors import UserError, describe_error

ScoresByImage = dict[tuple[str, str], dict[str, float]]  # by data set and image: values by metric


def parse_comparisons(texts: Sequence[str]) -> dict[str, Path]:
    """Parse values of --compare, NAME=FILE each, to files by name. Raises UserError."""
    files = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (equals and name and path) or name in files:
            raise UserError(f"--compare {text}: expected NAME=FILE, each name once")
        files[name] = Path(path)
    return files


def read_scores(name: str, path: Path, images: Sequence[tuple[str, str]]) -> ScoresByImage:
    """Read the scores of images from a per_image.csv of labeler.teacher.evaluate.

    Images are matched by name among the rows of their data set. If the table has none of this data set, all rows of the
    same format are used: the mouse tracking of an image is not its eye tracking.

    Args:
        name: name of the model, for error messages.
        path: the table.
        images: data sets and names of the images.

    Returns the scores of those images that the table holds. Raises UserError if it holds none, or is not such a table.
    """
    where = f"--compare {name}={path}"
    rows = _read_table(path, where)
    scores: ScoresByImage = {}
    for data in dict.fromkeys(data for data, _ in images):
        data_rows = [row for row in rows if row.get("data") == data]
        data_rows = data_rows or [row for row in rows if _has_format_of(row, data)]
        by_name = {row["image"]: row for row in data_rows}
        if len(by_name) < len(data_rows):
            raise UserError(f"{where}: names images of {data} more than once; expected the scores of one model")
        for image_data, image in images:
            if image_data == data and image in by_name:
                scores[data, image] = _parse_metrics(where, by_name[image])
    if not scores:
        raise UserError(f"{where}: holds none of the images of --human-data, such as {images[0][1]}")
    return scores


def _read_table(path: Path, where: str) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{where}: cannot be read as a table: {describe_error(error)}") from None
    if not rows or not rows[0].keys() >= {"image", "cc"}:
        found = ", ".join(rows[0]) if rows else "no rows"
        raise UserError(f"{where}: expected a per_image.csv with the columns image and cc, found {found}")
    return rows


def _has_format_of(row: Mapping[str, str], data: str) -> bool:
    """Return whether a row's data set has the same format (FORMAT:FOLDER), or the table does not name data sets."""
    return (row.get("data") or data).partition(":")[0] == data.partition(":")[0]


def _parse_metrics(where: str, row: Mapping[str, str]) -> dict[str, float]:
    """Return an image's values by metric; NaN for empty cells, which `cc` must not have."""
    if not row["cc"]:
        raise UserError(f"{where}: {row['image']}: expected a number as cc, found nothing")
    row = {EARLIER_METRIC_NAMES.get(column, column): text for column, text in row.items()}
    texts = {metric: row[metric] for metric in METRICS if row.get(metric)}
    numbers = {metric: _parse_number(text) for metric, text in texts.items()}
    for metric, number in numbers.items():
        if not math.isfinite(number):
            raise UserError(f"{where}: {row['image']}: expected a number as {metric}, found {texts[metric]!r}")
    return {metric: math.nan for metric in METRICS if metric in row} | numbers


def _parse_number(text: str) -> float:
    """Return a text as a number; NaN if it is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def summarize_model(scores: ScoresByImage, seed: int) -> dict[str, Any]:
    """Summarize a model's scores over all images and, under `data`, over the images of each data set.

    A summary holds the mean CC and the number `n` of images, Student's t-test of CC against 0 (`t` and `p`), the means
    of the other metrics, the gain over the center prior, and 95 % bootstrap intervals of all means, which `seed`
    determines. Means of unknown scores are None.
    """
    summary = _summarize(list(scores.values()), seed)
    by_data = {
        data: _summarize([values for (image_data, _), values in scores.items() if image_data == data], seed)
        for data in dict.fromkeys(data for data, _ in scores)
    }
    return {**summary, "data": by_data}


def _summarize(scores: Sequence[Mapping[str, float]], seed: int) -> dict[str, Any]:
    cc = score_values(scores, "cc")
    means = summarize_scores(scores, seed)
    correlation = means.pop("cc")
    return {
        "cc": correlation["mean"],
        "n": len(cc),
        "ci95": correlation["ci95"],
        **(_test_to_json(stats.ttest_1samp(cc, 0)) if len(cc) > 1 else {"t": None, "p": None}),
        **{metric: estimate["mean"] for metric, estimate in means.items()},
        **{f"{metric}_ci95": estimate["ci95"] for metric, estimate in means.items()},
    }


def compare_models(first: ScoresByImage, second: ScoresByImage) -> dict[str, Any]:
    """Compare two models' CC: Welch's t-test over all images of each, and a paired t-test over the images of both.

    Returns the difference of the means and both tests; None for a test with fewer than two images or pairs.
    """
    first_cc, second_cc = (np.array([values["cc"] for values in scores.values()]) for scores in (first, second))
    pairs = np.array([(first[key]["cc"], second[key]["cc"]) for key in first if key in second]).reshape(-1, 2)
    welch = paired = None
    if min(len(first_cc), len(second_cc)) > 1:
        welch = _test_to_json(stats.ttest_ind(first_cc, second_cc, equal_var=False))
    if len(pairs) > 1:
        paired = {"n": len(pairs), **_test_to_json(stats.ttest_rel(pairs[:, 0], pairs[:, 1]))}
    return {"difference": float(first_cc.mean() - second_cc.mean()), "welch": welch, "paired": paired}


def _test_to_json(test: Any) -> dict[str, float | None]:
    """Return a test's statistic and p-value; None if they are undefined, as for equal values."""
    t, p = float(test.statistic), float(test.pvalue)
    return {"t": t, "p": p} if math.isfinite(t) and math.isfinite(p) else {"t": None, "p": None}
