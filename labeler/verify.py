"""Check that a data set, complete or unfinished, conforms to the shard format, using only its own files.

    python -m labeler.verify DATASET

index.parquet, which data sets of earlier versions lack, is compared with the shards.

Problems come first, one per line. The last line is one JSON object with the keys ok, complete, shards, samples,
failures and problems. The exit code is 0 if there are no problems, else 1.
"""

import argparse
import json

from common.errors import UserError, run_program
from labeler.inspection.verify_dataset import verify_dataset


def main(argv: list[str] | None = None) -> int:
    """Check a data set and print its problems. Returns the exit code: 0 if there are none, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m labeler.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", metavar="DATASET", help="data set to check, a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU core)")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers: expected 1 or more, found {arguments.workers}")
    report = verify_dataset(arguments.dataset, arguments.workers)
    for problem in report["problems"]:
        print(problem)
    print(json.dumps(report, ensure_ascii=False))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    run_program(main)
