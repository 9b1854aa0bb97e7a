"""HTML page of a comparison: its figures, and the images whose maps differ most, with the labels of both sides."""

from pathlib import Path
from typing import Any

import numpy as np

from common import page
from common.page import Html
from common.shards import Sample
from common.text import pluralize
from labeler.comparison.compare import ComparedImage, Comparison
from labeler.comparison.figures import EXPLANATION
from labeler.comparison.table import COLUMNS, describe_side, figure_rows, find_most_different_classes

CC_BIN_WIDTH = 0.05


def write_comparison_page(to: Path, comparison: Comparison) -> None:
    """Write the page. Raises UserError if the file cannot be written."""
    report = comparison.report
    content = page.document(
        "Comparison of two labelings",
        f"A: {describe_side(report['a'])}. B: {describe_side(report['b'])}.",
        _tiles(report),
        page.notes([f"{path}: {problem}" for path, problem in comparison.problems.items()]),
        page.section(
            "Figures",
            page.paragraph(EXPLANATION),
            page.table(["figure", *COLUMNS], figure_rows(report)),
            _histogram(comparison),
        ),
        _classes_section(report),
        _images_section(comparison.most_different),
    )
    page.write_page(to, content)


def draw_pair(image: ComparedImage) -> Html:
    """Return a figure with the labels of A on the left and those of B on the right, over the image if either has it."""
    picture = next((sample.jpeg for sample in (image.a, image.b) if sample.jpeg is not None), None)
    pair = page.element("div", _draw(image.a, picture), _draw(image.b, picture), class_="pair")
    kld = [f"{image.figures[name]:.2f}" for name in ("kld_a_b", "kld_b_a")]
    details = [
        f"CC {image.figures['cc']:.3f}",
        f"KL(A || B) {kld[0]}, KL(B || A) {kld[1]}",
        f"A: {pluralize(len(image.a.gaze), 'point')}, B: {pluralize(len(image.b.gaze), 'point')}",
    ]
    return page.figure(pair, page.breakable(image.a.info.source), " · ".join(details))


def _draw(sample: Sample, jpeg: bytes | None) -> Html:
    info = sample.info
    image = None if jpeg is None else page.open_picture(jpeg)
    return page.attention_picture(
        image, sample.attention, sample.gaze, (info.width, info.height), info.exif_orientation
    )


def _tiles(report: dict[str, Any]) -> Html:
    mean = report["cc"]["mean"]
    return page.tiles(
        {
            "images in both": report["common"],
            "only in A": report["only_a"],
            "only in B": report["only_b"],
            "compared": report["compared"],
            "mean CC": "-" if mean is None else f"{mean:.3f}",
        }
    )


def _histogram(comparison: Comparison) -> Html:
    if not len(comparison.cc):
        return Html("")
    first_bin = np.floor(comparison.cc.min() / CC_BIN_WIDTH).clip(max=0)
    edges = (np.arange(first_bin, round(1 / CC_BIN_WIDTH) + 1) * CC_BIN_WIDTH).round(2)
    return page.grid([page.histogram("CC of each image", comparison.cc.clip(max=1).tolist(), edges)], wide=True)


def _classes_section(report: dict[str, Any]) -> Html:
    classes = find_most_different_classes(report)
    if not classes:
        return Html("")
    rows = [(name, images, f"{cc:.3f}") for name, images, cc in classes]
    return page.section("Classes with the lowest CC", page.table(["class", "images", "mean CC"], rows))


def _images_section(images: list[ComparedImage]) -> Html:
    explanation = "The images with the lowest CC, the lowest first. Left: map and gaze points of A; right: of B."
    figures = page.grid([draw_pair(image) for image in images], wide=True)
    return page.section("Most different images", page.paragraph(explanation), page.layer_switches(), figures)
