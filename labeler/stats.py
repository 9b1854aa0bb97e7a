"""Print statistics of a data set: class balance, maps, gaze points, images, duplicates, failures.

    python -m labeler.stats DATASET

The data set may be complete or unfinished. The figures of published shards come from index.parquet, in seconds. If it
is missing or belongs to other shards, a sentence on standard error says so, and the shards are read.

Tables come first; the last line is one JSON object with the keys complete, shards, samples, bytes, classes, maps, gaze,
images, duplicates, failures and unreadable. The exit code is 0, or 1 if a file could not be read; such files are named
on standard error, and everything else is counted.
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
    parser = argparse.ArgumentParser(
        prog="python -m labeler.stats", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set to read, a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU core)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the JSON object to this file")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers: expected 1 or more, found {arguments.workers}")
    report, problems = compute_statistics(arguments.dataset, arguments.workers)
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


if __name__ == "__main__":
    run_program(main)
