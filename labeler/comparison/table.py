"""The report of a comparison as a text table."""

from collections.abc import Mapping
from typing import Any

from labeler.comparison.figures import FIGURES

LISTED_CLASSES = 10
COLUMNS = ("mean", "5%", "50%", "95%")


def format_table(report: Mapping[str, Any]) -> str:
    """Format the report of `compare_labelings`: the data sets, the figures, and the classes that differ most."""
    lines = [f"{side.upper()}  {describe_side(report[side])}" for side in ("a", "b")]
    counts = {"common": "images in both", "only_a": "only in A", "only_b": "only in B", "compared": "compared"}
    lines += ["", ", ".join(f"{report[name]:,} {label}" for name, label in counts.items()), ""]
    lines += _align([["", *COLUMNS], *figure_rows(report)])
    if classes := find_most_different_classes(report):
        lines += ["", f"Classes with the lowest CC, {len(classes)} of {len(report['classes']):,}"]
        lines += _align(
            [["class", "images", "CC"], *([name, f"{images:,}", f"{cc:.3f}"] for name, images, cc in classes)]
        )
    return "\n".join(lines)


def describe_side(side: Mapping[str, Any]) -> str:
    """Describe a data set of the comparison on one line."""
    state = "" if side["complete"] else ", unfinished: only the shards published or finished so far"
    return (
        f"{side['dataset']}: {side['samples']:,} samples, maps of {side['map_size']} pixels by {side['teacher']}{state}"
    )


def figure_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each figure: its label, and its `COLUMNS`."""
    return [
        [label, *("-" if report[name][column] is None else f"{report[name][column]:.3f}" for column in COLUMNS)]
        for name, label in FIGURES.items()
    ]


def find_most_different_classes(report: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Return name, number of compared images and mean CC of the classes with the lowest CC."""
    classes = (report["classes"] or {}).items()
    compared = [(name, figures["compared"], figures["cc"]) for name, figures in classes if figures["cc"] is not None]
    return sorted(compared, key=lambda row: row[2])[:LISTED_CLASSES]


def _align(rows: list[list[str]]) -> list[str]:
    """Align the columns of a table, the first one to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
