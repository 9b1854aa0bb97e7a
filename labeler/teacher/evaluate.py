"""Score a teacher on human fixations, next to a centered Gaussian and the agreement among humans.

    python -m labeler.teacher.evaluate --teacher TEACHER --data FORMAT:FOLDER

Prints a table for each data set. The last line of the output is a JSON object with the teacher and, for each data set,
the number of images and the mean of every metric with its 95 % bootstrap interval. The output folder receives a page
(index.html) and the scores of every image (per_image.csv, results.json).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError, run_program
from common.fixations import FORMATS
from labeler.teacher import DEFAULT_TEACHER, TEACHER_HELP

DEFAULT_OUTPUT = "runs/teacher-evaluation"


def main(argv: list[str] | None = None) -> int:
    """Evaluate a teacher with the settings of the command line and return exit code 0. Raises UserError."""
    arguments = _parse_arguments(argv)
    from labeler.teacher.evaluation.run import evaluate_teacher  # imports torch, which --help does not need

    results = evaluate_teacher(
        arguments.teacher, arguments.data, arguments.names, arguments.output, arguments.device, arguments.seed
    )
    print(f"{arguments.output.rstrip('/')}/index.html", end="\n\n")
    print(json.dumps(results, ensure_ascii=False, allow_nan=False))
    return 0


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m labeler.teacher.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats of --data:\n" + "\n".join(f"  {name}:FOLDER  {meaning}" for name, meaning in FORMATS.items()),
    )
    files = parser.add_argument_group("input and output")
    files.add_argument(
        "--teacher", default=DEFAULT_TEACHER, metavar="TEACHER", help=f"{TEACHER_HELP} (default: {DEFAULT_TEACHER})"
    )
    files.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FORMAT:FOLDER[:SPLIT]",
        help="photographs with fixations (required); may be repeated, each data set is scored separately",
    )
    files.add_argument(
        "--names", type=Path, metavar="FILE", help="score only the images listed in this file, one name per line"
    )
    files.add_argument(
        "--output",
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help=f"folder of the results, local or s3://BUCKET/PREFIX (default: {DEFAULT_OUTPUT})",
    )
    method = parser.add_argument_group("method and hardware")
    method.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed of the split halves, shuffled AUC's negative images, the permuted targets and the intervals "
        "(default: 0)",
    )
    method.add_argument(
        "--device", choices=("cpu", "cuda"), help="where the teacher runs (default: cuda if there is a GPU, else cpu)"
    )
    arguments = parser.parse_args(argv)
    if not arguments.data:
        raise UserError("--data is needed: FORMAT:FOLDER of photographs with fixations; --help lists the formats")
    if arguments.seed < 0:
        raise UserError(f"--seed: expected 0 or more, found {arguments.seed}")
    return arguments


if __name__ == "__main__":
    run_program(main)
