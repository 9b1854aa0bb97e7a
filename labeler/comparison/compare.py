"""Comparison of two labelings: match their samples, compare the pairs in parallel, summarize the figures."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from common.errors import UserError
from common.parallel import in_processes
from common.shards import Sample
from labeler.comparison.figures import FIGURES
from labeler.comparison.labeling import Labeling, open_labeling
from labeler.comparison.matching import match_samples
from labeler.comparison.shard_comparison import PairReader, ShardComparison, UnreadablePair, compare_rows, initialize
from labeler.comparison.summary import summarize_classes, summarize_figures

MOST_DIFFERENT = 24  # images


class ComparedImage(NamedTuple):
    """An image with its two samples, image included where a data set stores it, and its figures by name."""

    a: Sample
    b: Sample
    figures: dict[str, float | None]


class Comparison(NamedTuple):
    """Result of comparing two labelings."""

    report: dict[str, Any]  # the JSON object that `labeler.compare` prints
    cc: np.ndarray  # of every compared image, float64 [images]
    most_different: list[ComparedImage]
    problems: dict[str, str]  # the first problem of each shard that could not be read completely, by path


def compare_labelings(
    a: str, b: str, workers: int | None = None, limit: int | None = None, seed: int = 0
) -> Comparison:
    """Compare two labelings of the same images, which may differ in shards, order, map size and stored images.

    Samples that cannot be read are skipped. Memory: 56 bytes for each sample, and several times as much while they are
    matched; the maps of one batch are in memory at a time.

    Args:
        a: data set, a folder or s3://BUCKET/PREFIX.
        b: the other data set.
        workers: number of processes, by default one per CPU core.
        limit: compare only this many of the common images, drawn at random.
        seed: random seed of the draw.

    Raises UserError if a data set is missing or has no shards, or if the two have no image in common.
    """
    sides = open_labeling(a, workers), open_labeling(b, workers)
    in_a, in_b = match_samples(sides[0].rows, sides[1].rows)
    if not len(in_a):
        raise UserError(
            f"{a} and {b} have no image in common: none of {len(sides[0].rows):,} and {len(sides[1].rows):,} samples "
            "have the same source_sha256. Compare two labelings of the same image files"
        )
    drawn = np.sort(np.random.default_rng(seed).permutation(len(in_a))[:limit])
    rows = sides[0].rows[in_a[drawn]], sides[1].rows[in_b[drawn]]
    problems = {
        f"{side.files.location.rstrip('/')}/{name}": text for side in sides for name, text in side.problems.items()
    }
    figures = np.full((len(drawn), len(FIGURES)), np.nan)
    start = 0
    for part in _compare_by_shard(sides, rows, workers):
        figures[start : start + len(part.figures)] = part.figures
        start += len(part.figures)
        for path, problem in part.problems:
            problems.setdefault(path, problem)
    compared = ~np.isnan(figures[:, 0])  # CC is NaN only for samples that cannot be read
    report = {
        "a": _describe(sides[0]),
        "b": _describe(sides[1]),
        "common": len(in_a),
        "only_a": len(sides[0].rows) - len(in_a),
        "only_b": len(sides[1].rows) - len(in_a),
        "compared": int(compared.sum()),
        **summarize_figures(figures),
        "classes": summarize_classes(sides, (in_a, in_b), rows[0]["wnid"], figures),
    }
    most_different = list(_read_most_different(sides, rows, figures))
    report["most_different"] = [_name_image(image) for image in most_different]
    report["unreadable"] = sorted(problems)
    return Comparison(report, figures[compared, 0], most_different, problems)


def _compare_by_shard(
    sides: tuple[Labeling, Labeling], rows: tuple[np.ndarray, np.ndarray], workers: int | None
) -> Iterator[ShardComparison]:
    """Compare pairs, whose rows are in the order of A's shards, shard by shard."""
    starts = np.flatnonzero(np.diff(rows[0]["shard"], prepend=-1))[1:]
    initializer = functools.partial(initialize, sides[0].files, sides[1].files)
    parts = np.split(rows[0], starts), np.split(rows[1], starts)
    return in_processes(compare_rows, *parts, processes=workers, unit="shards", start=initializer)


def _read_most_different(
    sides: tuple[Labeling, Labeling], rows: tuple[np.ndarray, np.ndarray], figures: np.ndarray
) -> Iterator[ComparedImage]:
    """Read the images with the lowest CC, and yield them in ascending order of CC."""
    reader = PairReader(sides[0].files, sides[1].files)
    for index in np.argsort(figures[:, 0], kind="stable")[:MOST_DIFFERENT]:  # NaN comes last
        pair = reader.read((rows[0][index], rows[1][index]), with_image=True)
        if not (np.isnan(figures[index, 0]) or isinstance(pair, UnreadablePair)):
            values = [None if np.isnan(value) else value for value in figures[index].tolist()]
            yield ComparedImage(*pair, dict(zip(FIGURES, values, strict=True)))


def _describe(side: Labeling) -> dict[str, Any]:
    return {
        "dataset": side.files.location,
        "teacher": side.teacher,
        "complete": side.complete,
        "map_size": side.files.map_size,
        "samples": len(side.rows),
    }


def _name_image(image: ComparedImage) -> dict[str, Any]:
    keys = {"key_a": image.a.key, "key_b": image.b.key}
    return {"source": image.a.info.source, "source_sha256": image.a.info.source_sha256, **keys, **image.figures}
