"""Write `index.parquet`, one row per sample, in a data set that lacks it or has one of other shards.

    python -m labeler.index DATASET

Labeling writes the index itself; data sets of earlier versions and copies without it are completed by this program. The
last line is one JSON object with the keys index, samples, shards and shards_read, the number of shards that were read
because their rows of the index were not stored when they were labeled, or without perceptual hashes of the images.
"""

import argparse
import json

from common.errors import UserError, run_program
from common.manifest import INDEX
from common.text import pluralize
from labeler.inspection.make_index import make_index


def main(argv: list[str] | None = None) -> int:
    """Write the index of a data set. Returns the exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m labeler.index", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="DATASET", help="complete data set, a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU core)")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers: expected 1 or more, found {arguments.workers}")
    report = make_index(arguments.dataset, arguments.workers)
    path = f"{arguments.dataset.rstrip('/')}/{INDEX}"
    print(f"{path}: {pluralize(report.samples, 'row')}, {pluralize(report.shards, 'shard')}")
    print(json.dumps({"index": path, **report._asdict()}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    run_program(main)
