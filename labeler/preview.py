"""`python -m labeler.preview`: one HTML page of a data set's pictures with their attention maps and gaze points."""

import argparse
import functools
import heapq
import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from common import page
from common.errors import UserError, run_program
from common.manifest import Plan
from common.page import Html
from common.shards import Sample
from common.storage import Storage, open_storage
from labeler.inspection.survey import (
    EXAMPLES,
    CommittedShards,
    SampleMeasure,
    map_area,
    measure_samples,
    read_committed,
    read_each,
)
from labeler.planning.generations import is_complete, read_plans

PER_EXTREME = 4
COLUMNS = ("reason", "images", "key", "image", "message")  # of the table of failures
COUNT_BINS = 24


EXTREMES: dict[str, Callable[[SampleMeasure], float]] = {  # the smallest first
    "Most gaze points": lambda finding: -finding.points,
    "Fewest gaze points": lambda finding: finding.points,
    "Most concentrated map": lambda finding: finding.area,
    "Most spread-out map": lambda finding: -finding.area,
    "Highest maximum before normalising": lambda finding: -finding.map_max,
    "Lowest maximum before normalising": lambda finding: finding.map_max,
}


def main(argv: list[str] | None = None) -> int:
    """Entry point. Raises UserError."""
    parser = argparse.ArgumentParser(prog="python -m labeler.preview", description=__doc__)
    parser.add_argument(
        "dataset", metavar="DATASET", help="folder of a data set, complete or not, local or s3://BUCKET/PREFIX"
    )
    parser.add_argument("--to", type=Path, help="the page to write (default: DATASET/preview.html)")
    parser.add_argument("--samples", type=int, default=24, help="pictures drawn at random (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other pictures (default: 0)")
    arguments = parser.parse_args(argv)
    if arguments.to is None and "://" in arguments.dataset:
        raise UserError("--to is needed: the local file that the page of a data set in S3 goes to")
    to = arguments.to or Path(arguments.dataset) / "preview.html"
    write_preview(arguments.dataset, to, arguments.samples, arguments.seed)
    print(to)
    return 0


def write_preview(dataset: str, to: Path, samples: int = 24, seed: int = 0) -> None:
    """Write the page of the data set at `dataset`, complete or not. The same seed draws the same pictures.

    Of a large data set only some shards are read; the page says how many. What cannot be read is noted on the page.
    Raises UserError where there is no data set, or no page can be written.
    """
    if samples < 0 or seed < 0:
        raise UserError(f"samples and seed: expected 0 or more, found {samples} and {seed}")
    storage, generator = open_storage(dataset), np.random.default_rng(seed)
    plans = read_plans(storage)
    plan, committed = plans[-1], read_committed(storage, plans)
    findings = measure_samples(storage, committed, generator)
    drawn = [findings[index] for index in sorted(generator.permutation(len(findings))[:samples].tolist())]
    extremes = {title: heapq.nsmallest(PER_EXTREME, findings, order) for title, order in EXTREMES.items()}
    figures = _figures(storage, plan, committed, itertools.chain(drawn, *extremes.values()))
    content = page.document(
        f"{dataset.rstrip('/').rpartition('/')[2] if '://' in dataset else Path(dataset).resolve().name}: preview",
        f"Photographs from {plan.input}, with the attention map and the gaze points that the teacher gave each.",
        _tiles(plans, committed, is_complete(storage, plans)),
        page.notes([f"{name}: {trouble}" for name, trouble in committed.notes.items()]),
        page.layer_switches() if findings else Html(""),
        page.section("Samples drawn at random", _pictures(drawn, figures)),
        _extremes_section(extremes, figures, _basis(findings, committed)),
        _distributions_section(findings, _basis(findings, committed)),
        _failures_section(committed),
    )
    page.write_page(to, content)


def _figures(
    storage: Storage, plan: Plan, committed: CommittedShards, wanted: Iterable[SampleMeasure]
) -> dict[str, Html]:
    """Read the wanted samples again and draw them, by key. Only the finished figures are kept."""
    shards = {finding.key: finding.shard for finding in wanted}
    draw = functools.partial(sample_figure, classes=plan.classes)
    return {
        key: figure
        for shard, count in sorted(Counter(shards.values()).items())
        for key, figure in itertools.islice(read_each(storage, shard, committed, draw, shards.keys()), count)
    }


def sample_figure(sample: Sample, classes: list[str] | None) -> tuple[str, Html]:
    """A sample's key, and the sample as people should see it: picture, map, points, and a caption."""
    info, image = sample.info, None
    if sample.jpeg is not None:
        image = Image.open(io.BytesIO(sample.jpeg))
        image.draft("RGB", (page.LONGEST_SIDE, page.LONGEST_SIDE))  # decodes a large JPEG at a part of its size
    frame = (info.width, info.height), info.exif_orientation
    shown = page.attention_picture(image, sample.attention, sample.gaze, *frame)
    return sample.key, page.figure(shown, page.breakable(info.source), _details(sample, classes))


def _details(sample: Sample, classes: list[str] | None) -> str:
    """The second line of a caption."""
    info, index = sample.info, sample.class_index
    named = f": {classes[index]}" if classes and index is not None and 0 <= index < len(classes) else ""
    details = [
        f"{info.width} × {info.height}",
        f"class {index}{named}" if index is not None else "",
        f"{len(sample.gaze)} point{'s' if len(sample.gaze) != 1 else ''}",
        f"map_max {info.map_max:.3g}",
        f"area {map_area(sample.attention):.0%}",
        f"re-encoded from {info.reencoded_from}" if info.reencoded_from else "",
        f"EXIF orientation {info.exif_orientation}, turned upright" if info.exif_orientation != 1 else "",
    ]
    return " · ".join(detail.replace(" ", "\N{NO-BREAK SPACE}") for detail in details if detail)


def _tiles(plans: list[Plan], committed: CommittedShards, complete: bool) -> Html:
    plan = plans[-1]
    return page.tiles(
        {
            "planned": committed.planned,
            "written": committed.samples,
            "left out": committed.failures.total(),
            "shards": f"{len(committed.shards):,} of {plan.next_shard:,}",
            "size": f"{committed.bytes / 1e6:,.1f} MB",
            "classes": len(plan.classes) if plan.classes is not None else "none",
            "state": "complete" if complete else "unfinished",
            "teacher": plan.teacher.id,
        }
    )


def _pictures(findings: list[SampleMeasure], figures: dict[str, Html]) -> Html:
    shown = [figures[finding.key] for finding in findings if finding.key in figures]
    return page.grid(shown) if shown else page.paragraph("No samples to show.")


def _basis(findings: list[SampleMeasure], committed: CommittedShards) -> str:
    """How much of the data set was looked at."""
    shards = len({finding.shard for finding in findings})
    return (
        f"From {len(findings):,} of {committed.samples:,} samples, in {shards:,} of {len(committed.shards):,} shards."
    )


def _extremes_section(extremes: dict[str, list[SampleMeasure]], figures: dict[str, Html], basis: str) -> Html:
    parts = []
    for title, findings in extremes.items():
        parts += [page.element("h3", title), _pictures(findings, figures)] if findings else []
    explained = "A map's area is the part of the frame that it spreads over: exp(entropy) over the number of pixels."
    return page.section("Extremes", page.paragraph(f"{basis} {explained}"), *parts)


def _distributions_section(findings: list[SampleMeasure], basis: str) -> Html:
    points = [finding.points for finding in findings]
    step = max(points, default=0) // COUNT_BINS + 1
    charts = [
        page.histogram("Gaze points of a sample", points, np.arange(0, max(points, default=0) + 1 + step, step)),
        page.histogram("Mean of the map, as a part of its maximum", [f.mean for f in findings], np.linspace(0, 1, 21)),
    ]
    return page.section("Distributions", page.paragraph(basis), page.grid(charts, wide=True))


def _failures_section(committed: CommittedShards) -> Html:
    if not committed.failures:
        return page.section("Left out", page.paragraph("No image was left out."))
    rows: list[tuple[object, ...]] = []
    for reason, count in committed.failures.most_common():
        rows.append((reason.value, count, "", "", ""))
        rows += [("", "", e.key, page.breakable(e.uri), e.message) for e in committed.examples.get(reason, [])]
    explained = f"By reason, with up to {EXAMPLES} examples of each; failures.jsonl of a complete data set lists all."
    return page.section("Left out", page.paragraph(explained), page.table(COLUMNS, rows))


if __name__ == "__main__":
    run_program(main)
