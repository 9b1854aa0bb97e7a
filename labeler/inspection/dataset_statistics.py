"""Statistics of a data set, complete or not, computed from all its committed shards."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from common.errors import UserError
from common.manifest import MANIFEST
from common.parallel import in_processes
from common.storage import Storage, open_storage
from labeler.inspection.duplicates import count_duplicates, describe_groups
from labeler.inspection.shard_statistics import ROW_DTYPE, SampleSums, ShardStatistics, compute_shard_statistics
from labeler.inspection.summary import summarize_classes, summarize_gaze, summarize_images, summarize_maps
from labeler.inspection.survey import DatasetOverview, read_overview
from labeler.planning.generations import read_plans, read_published_generation


def compute_statistics(dataset: str, workers: int | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Read all committed shards of a data set and compute the report, the JSON object that `labeler.stats` prints.

    Files and samples that cannot be read are skipped. Memory: 64 bytes per sample, briefly twice as much (290 MB for
    1.28 million samples, Python included).

    Args:
        dataset: a folder or s3://BUCKET/PREFIX.
        workers: number of processes, by default one per CPU core.

    Returns the report, and the first problem of each file that could not be read completely, by file name. Raises
    UserError if there is no data set, or if it has no committed shard.
    """
    storage = open_storage(dataset)
    plans = read_plans(storage)
    overview = read_overview(storage, plans)
    if not overview.shards and not overview.problems:
        raise UserError(
            f"{dataset}: expected a data set with finished shards, found none yet; run the same labeling command again "
            "to resume it"
        )
    generation = _find_published_generation(storage, overview)
    names, samples = list(overview.shards), list(overview.shards.values())
    statistics = in_processes(
        compute_shard_statistics, [dataset] * len(names), names, samples, processes=workers, unit="shards"
    )
    rows, sums = _join_shards(statistics, overview)
    duplicates, largest = count_duplicates(rows)
    last = plans[-1]
    report = {
        "complete": generation == last.generation,
        "shards": len(overview.shards),
        "samples": len(rows),
        "bytes": overview.bytes,
        "classes": summarize_classes(rows, last.classes),
        "maps": summarize_maps(rows, sums),
        "gaze": summarize_gaze(rows, sums, last.config.max_gaze_points),
        "images": summarize_images(rows, sums),
        "duplicates": {**duplicates, "largest": describe_groups(storage, largest, rows, names)},
        "failures": {reason.value: count for reason, count in sorted(overview.failures.items())},
        "unreadable": sorted(overview.problems),
    }
    return report, overview.problems


def _find_published_generation(storage: Storage, overview: DatasetOverview) -> int | None:
    """Return the generation of the manifest; None without a manifest, or with a damaged one, which is a problem."""
    try:
        return read_published_generation(storage)
    except UserError as error:
        overview.add_problem(MANIFEST, str(error))
        return None


def _join_shards(statistics: Iterable[ShardStatistics], overview: DatasetOverview) -> tuple[np.ndarray, SampleSums]:
    """Return the rows and sums of all samples. The shards' problems are added to the overview."""
    rows, sums = [np.empty(0, ROW_DTYPE)], SampleSums()
    for index, shard in enumerate(statistics):
        shard.rows["shard"] = index
        rows.append(shard.rows)
        sums.merge(shard.sums)
        if shard.problem:
            overview.add_problem(shard.shard, shard.problem)
    return np.concatenate(rows), sums
