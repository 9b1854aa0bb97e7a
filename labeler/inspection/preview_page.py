"""HTML page that shows a data set: sample images with attention maps and gaze points, distributions, failures."""

import functools
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from common import page
from common.errors import UserError
from common.manifest import Plan
from common.page import Html
from common.shards import Sample
from common.storage import Storage, open_storage
from common.text import pluralize
from labeler.inspection.reader import map_samples
from labeler.inspection.survey import (
    EXAMPLES_PER_REASON,
    DatasetOverview,
    SampleMeasures,
    measure_samples,
    read_overview,
)
from labeler.planning.generations import is_complete, read_plans
from labeler.publishing.map_measures import compute_map_area

SAMPLES_PER_EXTREME = 4
FAILURE_COLUMNS = ("reason", "images", "key", "image", "message")
MAX_POINT_BINS = 24

# Title of each group, and its sort key: the samples with the smallest keys are shown.
EXTREMES: dict[str, Callable[[SampleMeasures], float]] = {
    "Most gaze points": lambda measures: -measures.points,
    "Fewest gaze points": lambda measures: measures.points,
    "Most concentrated map": lambda measures: measures.area,
    "Most spread-out map": lambda measures: -measures.area,
    "Highest maximum before normalization": lambda measures: -measures.map_max,
    "Lowest maximum before normalization": lambda measures: measures.map_max,
}


def write_preview(dataset: str, to: Path, samples: int = 24, seed: int = 0) -> None:
    """Write the preview page of a data set, complete or not.

    Only some shards of a large data set are read; the page says how many. What cannot be read is listed on the page.

    Args:
        dataset: a folder or s3://BUCKET/PREFIX.
        to: HTML file to write.
        samples: number of randomly chosen samples to show.
        seed: random seed; the same seed chooses the same samples.

    Raises UserError if there is no data set, or if the page cannot be written.
    """
    if samples < 0 or seed < 0:
        raise UserError(f"--samples and --seed: expected 0 or more, found {samples} and {seed}")
    storage, generator = open_storage(dataset), np.random.default_rng(seed)
    plans = read_plans(storage)
    plan, overview = plans[-1], read_overview(storage, plans)
    measured = measure_samples(storage, overview, generator)
    chosen = [measured[index] for index in sorted(generator.permutation(len(measured))[:samples].tolist())]
    extremes = {title: heapq.nsmallest(SAMPLES_PER_EXTREME, measured, key) for title, key in EXTREMES.items()}
    figures = _draw_samples(storage, plan, overview, itertools.chain(chosen, *extremes.values()))
    basis = _describe_basis(measured, overview)
    content = page.document(
        f"{_dataset_name(dataset)}: preview",
        f"Images from {plan.input} with the attention maps and gaze points that the teacher predicted.",
        _tiles(plans, overview, is_complete(storage, plans)),
        page.notes([f"{name}: {problem}" for name, problem in overview.problems.items()]),
        page.layer_switches() if measured else Html(""),
        page.section("Random samples", _grid(chosen, figures)),
        _extremes_section(extremes, figures, basis),
        _distributions_section(measured, basis),
        _failures_section(overview),
    )
    page.write_page(to, content)


def draw_sample(sample: Sample, classes: list[str] | None) -> tuple[str, Html]:
    """Return a sample's key, and its figure: image, attention map, gaze points and a caption.

    `classes` holds the class names by index, or is None if the data set has no classes.
    """
    info = sample.info
    image = None if sample.jpeg is None else page.open_picture(sample.jpeg)
    frame = (info.width, info.height), info.exif_orientation
    picture = page.attention_picture(image, sample.attention, sample.gaze, *frame)
    return sample.key, page.figure(picture, page.breakable(info.source), _caption_details(sample, classes))


def _draw_samples(
    storage: Storage, plan: Plan, overview: DatasetOverview, wanted: Iterable[SampleMeasures]
) -> dict[str, Html]:
    """Read the wanted samples again and return their figures by key. Only the figures stay in memory."""
    shards = {measures.key: measures.shard for measures in wanted}
    figures: dict[str, Html] = {}
    for shard, count in sorted(Counter(shards.values()).items()):
        drawn = map_samples(
            functools.partial(draw_sample, classes=plan.classes),
            storage,
            shard,
            on_problem=functools.partial(overview.add_problem, shard),
            expected_samples=overview.shards[shard],
            keys=shards.keys(),
        )
        figures |= itertools.islice(drawn, count)
    return figures


def _caption_details(sample: Sample, classes: list[str] | None) -> str:
    info, index = sample.info, sample.class_index
    class_name = f": {classes[index]}" if classes and index is not None and 0 <= index < len(classes) else ""
    details = [
        f"{info.width} × {info.height}",
        f"class {index}{class_name}" if index is not None else "",
        pluralize(len(sample.gaze), "point"),
        f"map_max {info.map_max:.3g}",
        f"area {compute_map_area(sample.attention):.0%}",
        f"re-encoded from {info.reencoded_from}" if info.reencoded_from else "",
        f"EXIF orientation {info.exif_orientation}, shown upright" if info.exif_orientation != 1 else "",
    ]
    return " · ".join(detail.replace(" ", "\N{NO-BREAK SPACE}") for detail in details if detail)


def _dataset_name(dataset: str) -> str:
    return dataset.rstrip("/").rpartition("/")[2] if "://" in dataset else Path(dataset).resolve().name


def _tiles(plans: list[Plan], overview: DatasetOverview, complete: bool) -> Html:
    plan = plans[-1]
    return page.tiles(
        {
            "planned": overview.planned,
            "written": overview.samples,
            "failed": overview.failures.total(),
            "shards": f"{len(overview.shards):,} of {plan.next_shard:,}",
            "size": f"{overview.bytes / 1e6:,.1f} MB",
            "classes": len(plan.classes) if plan.classes is not None else "none",
            "state": "complete" if complete else "unfinished",
            "teacher": plan.teacher.id,
        }
    )


def _grid(samples: list[SampleMeasures], figures: dict[str, Html]) -> Html:
    """Return the figures of these samples, as far as they could be drawn."""
    available = [figures[measures.key] for measures in samples if measures.key in figures]
    return page.grid(available) if available else page.paragraph("No samples to show.")


def _describe_basis(measured: list[SampleMeasures], overview: DatasetOverview) -> str:
    """Describe how much of the data set was measured."""
    shards = len({measures.shard for measures in measured})
    return f"From {len(measured):,} of {overview.samples:,} samples, in {shards:,} of {len(overview.shards):,} shards."


def _extremes_section(extremes: dict[str, list[SampleMeasures]], figures: dict[str, Html], basis: str) -> Html:
    parts = []
    for title, samples in extremes.items():
        parts += [page.element("h3", title), _grid(samples, figures)] if samples else []
    definition = "The area of a map is the fraction of the frame that it spreads over: exp(entropy) / number of pixels."
    return page.section("Extremes", page.paragraph(f"{basis} {definition}"), *parts)


def _distributions_section(measured: list[SampleMeasures], basis: str) -> Html:
    points = [measures.points for measures in measured]
    means = [measures.mean for measures in measured]
    step = max(points, default=0) // MAX_POINT_BINS + 1
    charts = [
        page.histogram("Gaze points per sample", points, np.arange(0, max(points, default=0) + 1 + step, step)),
        page.histogram("Mean of the map, as a fraction of its maximum", means, np.linspace(0, 1, 21)),
    ]
    return page.section("Distributions", page.paragraph(basis), page.grid(charts, wide=True))


def _failures_section(overview: DatasetOverview) -> Html:
    title = "Failed images"
    if not overview.failures:
        return page.section(title, page.paragraph("No image failed."))
    rows: list[tuple[object, ...]] = []
    for reason, count in overview.failures.most_common():
        rows.append((reason.value, count, "", "", ""))
        examples = overview.failure_examples.get(reason, [])
        rows += [("", "", failure.key, page.breakable(failure.uri), failure.message) for failure in examples]
    explanation = (
        f"Images that were not labeled, by reason, with up to {EXAMPLES_PER_REASON} examples each. "
        "failures.jsonl of a complete data set lists all of them."
    )
    return page.section(title, page.paragraph(explanation), page.table(FAILURE_COLUMNS, rows))
