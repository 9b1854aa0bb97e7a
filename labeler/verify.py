"""Check that a data set, complete or unfinished, conforms to the shard format, using only its own files.

    python -m labeler.verify DATASET
    python -m labeler.verify https://HOST/PATH/DATASET --sample 0.01

index.parquet, which data sets of earlier versions lack, is compared with the shards. A public copy is read over https
without credentials and checked against its manifest; other files than the manifest and the shards may be absent there.

A run that was stopped, or that found problems, resumes: run the same command again. Shards that were found intact are
not read again unless they, the manifest or the index have changed since, which their sizes and times or ETags show.

Problems come first, one per line. The last line is one JSON object with the keys ok, complete, shards, samples,
failures and problems. If this run did not check everything, it also has the keys checked (shards, samples, share:
number of shards whose content was checked and their part of all shards; resumed: how many of them by an earlier run)
and unchecked (sentences, which are also on standard error). The exit code is 0 if there are no problems, else 1.
"""

import argparse
import json
import sys
from pathlib import Path

from common.errors import UserError, run_program
from common.storage.http import is_url
from labeler.verification.shard_checks import CheckSettings
from labeler.verification.verified_shards import VerifiedShards, default_path
from labeler.verification.verify_copy import verify_copy
from labeler.verification.verify_dataset import verify_dataset


def main(argv: list[str] | None = None) -> int:
    """Check a data set and print its problems. Returns the exit code: 0 if there are none, else 1."""
    arguments = _parse_arguments(argv)
    verified = VerifiedShards(arguments.state or default_path(arguments.dataset))
    verify = verify_copy if is_url(arguments.dataset) else verify_dataset
    settings = CheckSettings(arguments.sample, arguments.seed, verified)
    report = verify(arguments.dataset, arguments.workers, settings)
    for problem in report["problems"]:
        print(problem)
    for sentence in report.get("unchecked", []):
        print(f"not checked: {sentence}", file=sys.stderr)
    print(json.dumps(report, ensure_ascii=False))
    if report["ok"] and not arguments.state:
        verified.remove()
    return 0 if report["ok"] else 1


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m labeler.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "dataset", metavar="DATASET", help="data set to check, a folder, s3://BUCKET/PREFIX or https://HOST/PATH"
    )
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU core)")
    parser.add_argument(
        "--sample",
        type=float,
        default=1.0,
        metavar="FRACTION",
        help="check the content of this fraction of the shards, drawn at random and rounded up, and only presence and "
        "size of the others (default: 1, all)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed that draws the shards (default: 0)")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="file with the shards that were found intact, to which this run adds its own (default: a file in "
        "~/.cache/imagenet-attn/verify, which is removed after a run without problems, so that the next run checks "
        "everything again)",
    )
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers: expected 1 or more, found {arguments.workers}")
    if not 0 < arguments.sample <= 1:
        raise UserError(f"--sample: expected a fraction above 0, at most 1, found {arguments.sample:g}")
    if arguments.seed < 0:
        raise UserError(f"--seed: expected 0 or more, found {arguments.seed}")
    return arguments


if __name__ == "__main__":
    run_program(main)
