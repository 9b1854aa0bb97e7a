"""What is in a data set: class balance, maps, gaze points, images, duplicates, failures. Finished or unfinished.

    python -m labeler.stats DATASET

DATASET is a folder or s3://BUCKET/PREFIX. Tables come first; the last line is one JSON object: complete, shards,
samples, bytes, classes, maps, gaze, images, duplicates, failures, unreadable. Exit code 0; 1 where a file could not be
read, which is named on standard error, with all the others counted.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, describe_error, run_program
from common.manifest import MANIFEST, Manifest
from common.parallel import in_processes
from common.storage import Storage, open_storage
from common.storage.files import write_atomically
from labeler.inspection.duplicates import count_duplicates, describe_groups
from labeler.inspection.stats_tables import format_tables
from labeler.inspection.summary import summarize_classes, summarize_gaze, summarize_images, summarize_maps
from labeler.inspection.survey import CommittedShards, read_committed
from labeler.inspection.tally import ROW, Sums, Tally, tally_shard
from labeler.planning.generations import read_plans


def compute_statistics(dataset: str, workers: int | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Read all committed shards. Returns the object that the program prints last, and the troubles met, by file.

    What cannot be read is left out and noted. Raises UserError where there is no data set, or nothing is committed.

    Memory: 64 bytes a sample, twice for a moment (for 1.28 million samples 290 MB, Python included).
    """
    storage = open_storage(dataset)
    plans = read_plans(storage)
    committed = read_committed(storage, plans)
    if not committed.shards and not committed.notes:
        raise UserError(f"{dataset}: expected a data set with finished shards, found none as yet; go on with its run")
    published = _published_generation(storage, committed)
    rows, sums = _put_together(_tallies(dataset, committed, workers), committed)
    duplicates, largest = count_duplicates(rows)
    last = plans[-1]
    report = {
        "complete": published == last.generation,
        "shards": len(committed.shards),
        "samples": len(rows),
        "bytes": committed.bytes,
        "classes": summarize_classes(rows, last.classes),
        "maps": summarize_maps(rows, sums),
        "gaze": summarize_gaze(rows, sums, last.config.max_gaze_points),
        "images": summarize_images(rows, sums),
        "duplicates": {**duplicates, "largest": describe_groups(storage, largest, rows, list(committed.shards))},
        "failures": {reason.value: count for reason, count in sorted(committed.failures.items())},
        "unreadable": sorted(committed.notes),
    }
    return report, committed.notes


def _published_generation(storage: Storage, committed: CommittedShards) -> int | None:
    """The last generation that the manifest covers; None where there is no manifest. A damaged one is noted."""
    try:
        return Manifest.model_validate_json(storage.read(MANIFEST)).generation
    except FileNotFoundError:
        return None
    except ValueError as error:
        committed.notes[MANIFEST] = describe_error(error)
        return None


def _tallies(dataset: str, committed: CommittedShards, workers: int | None) -> Iterator[Tally]:
    """The shards' figures, in the shards' order."""
    shards, samples = list(committed.shards), list(committed.shards.values())
    return in_processes(tally_shard, [dataset] * len(shards), shards, samples, processes=workers, unit="shards")


def _put_together(tallies: Iterable[Tally], committed: CommittedShards) -> tuple[np.ndarray, Sums]:
    """All samples' rows, and their sums; troubles are noted in the committed."""
    parts, sums = [np.empty(0, ROW)], Sums()
    for index, tally in enumerate(tallies):
        tally.rows["shard"] = index
        parts.append(tally.rows)
        sums.merge(tally.sums)
        if tally.trouble:
            committed.notes[tally.shard] = tally.trouble
    return np.concatenate(parts), sums


def main(argv: list[str] | None = None) -> int:
    """Entry point. Returns 0, or 1 where a file could not be read. Raises UserError."""
    parser = argparse.ArgumentParser(
        prog="python -m labeler.stats", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dataset", metavar="DATASET", help="folder or s3://BUCKET/PREFIX of a data set, complete or not"
    )
    parser.add_argument("--workers", type=int, help="processes; by default one a core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON object to this file too")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers: expected 1 or more, found {arguments.workers}")
    report, troubles = compute_statistics(arguments.dataset, arguments.workers)
    line = json.dumps(report, ensure_ascii=False, allow_nan=False)
    print(format_tables(arguments.dataset, report), line, sep="\n\n")
    for name, trouble in troubles.items():
        print(f"{name}: {trouble}", file=sys.stderr)
    if arguments.json:
        try:
            write_atomically(arguments.json, f"{line}\n".encode())
        except OSError as error:
            raise UserError(f"--json {arguments.json}: cannot be written: {error.strerror}") from None
    return 1 if report["unreadable"] else 0


if __name__ == "__main__":
    run_program(main)
