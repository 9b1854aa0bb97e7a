"""Print statistics of a data set: class balance, maps, gaze points, images, duplicates, failures.

    python -m labeler.stats DATASET
    python -m labeler.stats TRAINING_SET --near-duplicates --to page.html
    python -m labeler.stats TRAINING_SET --against VALIDATION_SET --to page.html

The data set may be complete or unfinished. The figures of published shards come from index.parquet, in seconds. If it
is missing or belongs to other shards, a sentence on standard error says so, and the shards are read.

Tables come first; the last line is one JSON object with the keys complete, shards, samples, bytes, classes, maps, gaze,
images, duplicates, failures and unreadable. The exit code is 0, or 1 if a file could not be read; such files are named
on standard error, and everything else is counted.

Near-duplicates are images of the same picture that were resized, compressed again, cropped slightly or mirrored. They
are found by the perceptual hashes in the index of a published data set and, if it stores images, confirmed by their
pixels. The JSON object then has the key near_duplicates, which lists the sources of the first 1,000 groups, largest
first; the CSV file has all.
"""

import argparse
import json
import sys
from pathlib import Path

from common.errors import UserError, run_program
from common.storage.files import write_atomically
from labeler.inspection.dataset_statistics import compute_statistics
from labeler.inspection.stats_tables import format_tables


def main(argv: list[str] | None = None) -> int:
    """Print the statistics of a data set. Returns the exit code: 1 if a file could not be read, else 0."""
    arguments = _parse(argv)
    near_duplicates = None
    if arguments.near_duplicates or arguments.against:
        from labeler.near_duplicates.report import report_near_duplicates  # imports SciPy, which takes half a second

        csv = arguments.csv or (arguments.to and arguments.to.with_suffix(".csv"))
        near_duplicates = report_near_duplicates(
            arguments.dataset, arguments.against, arguments.workers, arguments.to, csv
        )
    report, problems = compute_statistics(arguments.dataset, arguments.workers)
    if near_duplicates is not None:
        report["near_duplicates"] = near_duplicates
    line = json.dumps(report, ensure_ascii=False, allow_nan=False)
    print(format_tables(arguments.dataset, report), line, sep="\n\n")
    for name, problem in problems.items():
        print(f"{name}: {problem}", file=sys.stderr)
    if arguments.json:
        try:
            write_atomically(arguments.json, f"{line}\n".encode())
        except OSError as error:
            raise UserError(f"--json {arguments.json}: cannot be written: {error.strerror}") from None
    return 1 if report["unreadable"] else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m labeler.stats", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set to read, a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--workers", type=int, help="number of processes or threads (default: one per CPU core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the JSON object to this file")
    group = parser.add_argument_group("near-duplicates")
    group.add_argument("--near-duplicates", action="store_true", help="find near-duplicates within the data set")
    group.add_argument(
        "--against",
        metavar="OTHER_DATASET",
        help="find images of the data set that have near-duplicates in another one, instead of those within it",
    )
    group.add_argument("--to", type=Path, metavar="FILE", help="write an HTML page that shows pairs of near-duplicates")
    group.add_argument(
        "--csv", type=Path, metavar="FILE", help="write all groups to this file (default: next to the page, if any)"
    )
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers: expected 1 or more, found {arguments.workers}")
    if (arguments.to or arguments.csv) and not (arguments.near_duplicates or arguments.against):
        raise UserError("--to and --csv are for near-duplicates: add --near-duplicates or --against OTHER_DATASET")
    return arguments


if __name__ == "__main__":
    run_program(main)
