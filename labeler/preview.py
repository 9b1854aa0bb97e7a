"""Write an HTML page of sample images from a data set with their attention maps and gaze points."""

import argparse
from pathlib import Path

from common.errors import UserError, run_program
from labeler.inspection.preview_page import write_preview


def main(argv: list[str] | None = None) -> int:
    """Write the page and print its path. Raises UserError if there is no data set or the page cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m labeler.preview", description=__doc__)
    parser.add_argument(
        "dataset", metavar="DATASET", help="data set to show, complete or not: a folder or s3://BUCKET/PREFIX"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="HTML file to write (default: DATASET/preview.html)")
    parser.add_argument("--samples", type=int, default=24, help="number of random samples to show (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="random seed that chooses the samples (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.to is None and "://" in arguments.dataset:
        raise UserError("--to is required for a data set in S3: give the local file to write the page to")
    to = arguments.to or Path(arguments.dataset) / "preview.html"
    write_preview(arguments.dataset, to, arguments.samples, arguments.seed)
    print(to)
    return 0


if __name__ == "__main__":
    run_program(main)
