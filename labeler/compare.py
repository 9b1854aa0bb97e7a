"""Compare two labelings of the same images, such as those of two teachers or of two versions of a teacher.

    python -m labeler.compare A B
    python -m labeler.compare A B --to page.html --limit 5000

A and B are data sets. Their samples are matched by the checksum of the source image, and images that occur several
times in a data set also by their paths, so shards, order, map size and stored images may differ. The published shards
are compared; of a data set without a manifest, those that are finished.

Figures, over the common images and by class: CC of the maps; the Kullback-Leibler divergence in both directions, where
kld_a_b is KL(A || B), with A as the reference; NSS of the gaze points of one data set on the map of the other one
(nss_a_on_b: A's points on B's map); and gaze_distance, the mean distance between nearest gaze points in both
directions, as a fraction of the image's diagonal.

A table comes first; the last line is one JSON object with the keys a, b, common, only_a, only_b, compared, one key for
each figure, classes, most_different and unreadable. The exit code is 0, or 1 if a file could not be read; such files
are named on standard error, and everything else is compared.
"""

import argparse
import json
import sys
from pathlib import Path

from common.errors import UserError, run_program


def main(argv: list[str] | None = None) -> int:
    """Print the comparison of two data sets. Returns the exit code: 1 if a file could not be read, else 0."""
    arguments = _parse_arguments(argv)
    from labeler.comparison.compare import compare_labelings  # imports torch, which --help does not need
    from labeler.comparison.page import write_comparison_page
    from labeler.comparison.table import format_table

    comparison = compare_labelings(arguments.a, arguments.b, arguments.workers, arguments.limit, arguments.seed)
    if arguments.to:
        write_comparison_page(arguments.to, comparison)
    line = json.dumps(comparison.report, ensure_ascii=False, allow_nan=False)
    print(format_table(comparison.report), *([arguments.to] if arguments.to else []), line, sep="\n\n")
    for path, problem in comparison.problems.items():
        print(f"{path}: {problem}", file=sys.stderr)
    return 1 if comparison.problems else 0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m labeler.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="data set, a folder or s3://BUCKET/PREFIX")
    parser.add_argument("--to", type=Path, metavar="FILE", help="HTML page to write, with the most different images")
    parser.add_argument("--limit", type=int, help="compare only this many of the common images, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="random seed that draws the images (default: 0)")
    parser.add_argument("--workers", type=int, help="number of processes (default: one per CPU core)")
    arguments = parser.parse_args(argv)
    for name, least in {"limit": 1, "seed": 0, "workers": 1}.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name}: expected {least} or more, found {value}")
    return arguments


if __name__ == "__main__":
    run_program(main)
