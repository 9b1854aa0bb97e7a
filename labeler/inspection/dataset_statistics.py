"""Statistics of a data set, complete or not: from its index, and from the committed shards that no index covers."""

import sys
from typing import Any

import numpy as np

from common.errors import UserError
from common.manifest import MANIFEST
from common.parallel import in_processes
from common.storage import Storage, open_storage
from labeler.inspection.duplicates import count_duplicates, describe_groups, read_origins
from labeler.inspection.index_statistics import NO_INDEX, IndexStatistics, read_index_statistics
from labeler.inspection.shard_statistics import compute_shard_statistics
from labeler.inspection.summary import summarize_classes, summarize_gaze, summarize_images, summarize_maps
from labeler.inspection.survey import DatasetOverview, read_overview
from labeler.planning.generations import read_plans, read_published_generation
from labeler.publishing.index import UnusableIndex
from labeler.publishing.index_sums import SampleSums


def compute_statistics(dataset: str, workers: int | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Compute the statistics of all committed shards of a data set, the JSON object that `labeler.stats` prints.

    Published shards are not read if the data set has an index of them. If it should have one, a sentence on standard
    error says why it is not used. Files and samples that cannot be read are skipped. Memory: 64 bytes per sample and
    briefly several times as much (470 MB for 1.28 million samples in an index, Python included).

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
    indexed = NO_INDEX if generation is None else _read_index(storage, overview)
    names = [*indexed.shards, *(name for name in overview.shards if name not in set(indexed.shards))]
    rows, sums = _add_shards(indexed, dataset, names[len(indexed.shards) :], overview, workers)
    duplicates, largest = count_duplicates(rows)
    repeated = [position for group in largest for position in group.first]
    origins = indexed.read_origins(position for position in repeated if position < len(indexed.rows))
    origins |= read_origins(storage, [position for position in repeated if position not in origins], rows, names)
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
        "duplicates": {**duplicates, "largest": describe_groups(largest, origins)},
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


def _read_index(storage: Storage, overview: DatasetOverview) -> IndexStatistics:
    """Return the statistics of the published shards, none if the index cannot be used; then say why."""
    try:
        return read_index_statistics(storage, overview.shards)
    except UnusableIndex as reason:
        print(
            f"reading the shards instead of the index, because {reason}; python -m labeler.index {storage.location} "
            "writes the index again",
            file=sys.stderr,
        )
        return NO_INDEX


def _add_shards(
    indexed: IndexStatistics, dataset: str, shards: list[str], overview: DatasetOverview, workers: int | None
) -> tuple[np.ndarray, SampleSums]:
    """Return the rows and sums of the samples in the index and in further shards, which are read.

    The shards' problems are added to the overview.
    """
    rows, sums = [indexed.rows], SampleSums()
    sums.merge(indexed.sums)
    samples = [overview.shards[name] for name in shards]
    statistics = in_processes(
        compute_shard_statistics, [dataset] * len(shards), shards, samples, processes=workers, unit="shards"
    )
    for position, shard in enumerate(statistics, start=len(indexed.shards)):
        shard.rows["shard"] = position
        rows.append(shard.rows)
        sums.merge(shard.sums)
        if shard.problem:
            overview.add_problem(shard.shard, shard.problem)
    return np.concatenate(rows), sums
