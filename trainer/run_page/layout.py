"""How the page of a run is drawn: key figures, curves, and a row of attention maps for each sample."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from common import page
from common.images.orientation import to_upright_image
from common.page import Html
from common.text import format_duration
from trainer.run_page.maps import EpochMaps
from trainer.run_page.samples import PageSample

REFRESH = 60  # seconds after which a browser loads the page of a running run again
CELL = 112  # side of a picture in TensorBoard, in pixels
NO_POINTS = np.empty((0, 3), np.float32)


@dataclass(frozen=True)
class Chart:
    """A chart of the page: its title, an explanation, and the metrics that it shows by their names in the legend.

    A name may contain `{target}`, which stands for the recipe's target.
    """

    title: str
    details: str
    metrics: Mapping[str, str]


CHARTS = (
    Chart(
        "Loss",
        "Sum of all loss terms, and its main term.",
        {
            "loss": "loss",
            "contrastive": "contrastive",
            "vicreg": "VICReg",
            "byol": "BYOL",
            "cross_entropy": "cross-entropy",
        },
    ),
    Chart(
        "Agreement of attention maps",
        "Correlation (CC) of the predicted maps with their targets: 0 is chance, 1 is best.",
        {"attention_cc": "{target}s", "human_attention_cc": "human maps"},
    ),
    Chart(
        "Accuracy",
        "Fraction of images whose class is right.",
        {
            "probe_accuracy": "probe",
            "knn_20": "20 nearest neighbors",
            "knn_200": "200 nearest neighbors",
            "held_out_accuracy": "held-out images",
        },
    ),
    Chart(
        "Attention loss",
        "KLD of the predicted maps from their targets (lower is better), and their NSS at the gaze points (higher is "
        "better).",
        {"kld": "KLD", "nss": "NSS", "human_kld": "human KLD", "human_nss": "human NSS"},
    ),
    Chart("RankMe", "Effective rank of the training images' features.", {"rankme": "RankMe"}),
)


@dataclass(frozen=True)
class Status:
    """What the page says about the run.

    Attributes:
        title: name of the recipe and the network.
        description: a sentence about the recipe.
        target: name of the map with which the model's map of an image is compared.
        epoch: number of complete epochs.
        epochs: number of epochs of the whole run.
        state: "training", "stopped" or "finished".
        chance: accuracy of a random guess; None without classes.
        speed: images per second since the program was started; None before the first step.
        seconds_left: estimated time until the run ends; None before the first step.
        written: date and time at which the page was written.
    """

    title: str
    description: str
    target: str
    epoch: int
    epochs: int
    state: str
    chance: float | None
    speed: float | None
    seconds_left: float | None
    written: str


@dataclass(frozen=True)
class Gallery:
    """Samples, the model's maps of them by epoch, and remarks that say why some of them are absent."""

    samples: Sequence[PageSample] = ()
    maps: Mapping[int, EpochMaps] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def draw_page(status: Status, means: Mapping[int, Mapping[str, float]], gallery: Gallery) -> Html:
    """Draw the page of a run.

    Args:
        status: the state of the run.
        means: finite metrics by name, by epoch in ascending order.
        gallery: what is shown of the attention maps.
    """
    return page.document(
        status.title,
        status.description,
        _draw_tiles(status, means),
        _draw_curves("Curves", CHARTS, means, status),
        _draw_gallery(gallery, status.target),
        _draw_curves("Other metrics", _list_other_charts(means), means, status),
        page.paragraph(_describe_writing(status)),
        refresh=REFRESH if status.state == "training" else None,
    )


def _draw_tiles(status: Status, means: Mapping[int, Mapping[str, float]]) -> Html:
    latest = means[max(means)] if means else {}
    names = {"loss": "loss", "attention_cc": "attention CC", "probe_accuracy": "probe accuracy", "knn_20": "knn 20"}
    figures = {title: f"{latest[name]:.4g}" for name, title in names.items() if name in latest}
    tiles: dict[str, object] = {"state": status.state, "epoch": f"{status.epoch:,} of {status.epochs:,}"}
    if status.seconds_left is not None and status.state == "training":
        tiles["time left"] = format_duration(status.seconds_left)
    if status.speed is not None:
        tiles["images per second"] = f"{status.speed:,.0f}"
    return page.tiles(tiles | figures)


def _list_other_charts(means: Mapping[int, Mapping[str, float]]) -> list[Chart]:
    """Return a chart for each metric that is logged and not in `CHARTS`."""
    grouped = {name for chart in CHARTS for name in chart.metrics}
    others = dict.fromkeys(name for metrics in means.values() for name in metrics if name not in grouped)
    return [Chart(name.replace("_", " ").capitalize(), "", {name: name}) for name in others]


def _draw_curves(title: str, charts: Sequence[Chart], means: Mapping[int, Mapping[str, float]], status: Status) -> Html:
    """Draw those of the charts that have values, as a section; nothing if there are no values yet."""
    figures = []
    for chart in charts:
        curves = {
            label.format(target=status.target): [
                (epoch, metrics[name]) for epoch, metrics in means.items() if name in metrics
            ]
            for name, label in chart.metrics.items()
        }
        if not any(curves.values()):
            continue
        is_accuracy = "probe_accuracy" in chart.metrics
        details = f"{chart.details} Chance is {status.chance:.3g}." if is_accuracy and status.chance else chart.details
        drawing = page.line_chart(curves, f"{chart.title} by epoch", "epoch")
        figures.append(page.figure(drawing, chart.title, details))
    if not figures:
        return Html("")
    columns = "grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr))"
    return page.section(
        title,
        page.paragraph("Means over each epoch, on augmented training images unless another set is named."),
        page.element("div", *figures, class_="grid", style=columns),
    )


def _draw_gallery(gallery: Gallery, target: str) -> Html:
    parts = [page.notes(gallery.remarks)]
    if gallery.samples:
        explanation = (
            "Photographs of the training data, drawn at random, the same in every epoch. Each map is scaled to its "
            "maximum; CC is the correlation with the second column: 0 is chance, 1 is best. The model predicts them in "
            "evaluation mode. Early in a run, batch norm's running averages lag behind the weights, and the maps are "
            "worse than those in training."
        )
        columns = ["photograph", target, *(_draw_heading(*entry) for entry in gallery.maps.items())]
        rows = [_draw_row(number, sample, gallery.maps) for number, sample in enumerate(gallery.samples)]
        parts += [page.paragraph(explanation), page.table(columns, rows)]
    return page.section("Attention maps", *parts)


def _draw_heading(epoch: int, maps: EpochMaps) -> Html:
    name = f"epoch {epoch:,}" if epoch else "before training"
    return Html(page.escape(name) + page.element("div", f"mean {_format_cc(maps.correlations.mean())}"))


def _draw_row(number: int, sample: PageSample, maps: Mapping[int, EpochMaps]) -> list[Html]:
    cells = [page.picture(sample.photograph, sample.source), _draw_map(sample.attention, sample)]
    for epoch in maps.values():
        caption = page.element("small", _format_cc(epoch.correlations[number]))
        cells.append(Html(_draw_map(epoch.maps[number], sample) + caption))
    return cells


def _format_cc(correlation: float) -> str:
    return f"CC {round(float(correlation), 2) + 0.0:.2f}"  # + 0.0 turns -0.0 into 0.0


def _draw_map(attention: np.ndarray, sample: PageSample) -> Html:
    return page.attention_picture(None, attention, NO_POINTS, sample.size, sample.orientation)


def _describe_writing(status: Status) -> str:
    text = f"Written on {status.written}."
    if status.state == "training":
        text += f" While the run goes on, this page is renewed after each epoch, and loaded again every {REFRESH} s."
    if status.state == "stopped":
        text += " Run the same command again to resume."
    return text


def draw_sheet(samples: Sequence[PageSample], maps: EpochMaps) -> np.ndarray:
    """Draw one row per sample as pixels, uint8 [H, W, 3]: the photograph, its target and the model's map."""
    colors = page.heat_colors()
    rows = []
    for sample, predicted in zip(samples, maps.maps, strict=True):
        cells = [Image.open(io.BytesIO(sample.photograph)).resize((CELL, CELL))]
        for attention in (sample.attention, predicted):
            upright = to_upright_image(Image.fromarray(attention), sample.orientation)
            cells.append(Image.fromarray(colors[np.asarray(upright.resize((CELL, CELL)))]))
        rows.append(np.concatenate([np.asarray(cell) for cell in cells], axis=1))
    return np.concatenate(rows)
