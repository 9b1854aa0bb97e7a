"""Charts of the report as inline SVG, on a white background, so that they look the same on light and dark pages."""

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.page import Html, element, figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")  # safe for color blindness
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "imagenet-attn",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # names may contain dollar signs
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6ea",
    "legend.frameon": False,
}
BIN_WIDTH = 0.05  # of histograms
LEGEND_LINE = 0.2  # inches
SEVERITY = "severity"  # label of an x axis that has ticks at integers only
Lines = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float], float]]]  # by model: x, y, opacity of each line


@matplotlib.rc_context(STYLE)
def line_chart(title: str, details: str, lines: Lines, x_label: str, y_label: str) -> Html:
    """Draw the lines of each model in its color; the y axis begins at 0."""
    chart, axes = _new_chart(lines)
    for number, (name, curves) in enumerate(lines.items()):
        for index, (x, y, opacity) in enumerate(curves):
            axes.plot(
                x,
                y,
                color=_color(number),
                alpha=opacity,
                marker="o",
                markersize=3,
                linewidth=1.4,
                label=name if index == 0 else None,
            )
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_ylim(0, 1.05 * max([*axes.get_ylim(), 1e-3]))
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=x_label == SEVERITY))
    return _to_figure(chart, title, details)


@matplotlib.rc_context(STYLE)
def bar_chart(
    title: str, details: str, labels: Sequence[str], values: Mapping[str, Sequence[float]], x_label: str
) -> Html:
    """Draw horizontal bars, one per label (from top to bottom) and model."""
    chart, axes = _new_chart(values, height=0.7 + 0.13 * len(labels) * (len(values) + 0.7))
    thickness = 0.8 / len(values)
    centers = np.arange(len(labels))
    for number, (name, lengths) in enumerate(values.items()):
        offset = (number - (len(values) - 1) / 2) * thickness
        axes.barh(centers + offset, lengths, thickness, color=_color(number), label=name)
    axes.set_yticks(centers, [label.replace("_", " ") for label in labels])
    axes.set(xlabel=x_label, ylim=(len(labels) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    return _to_figure(chart, title, details)


@matplotlib.rc_context(STYLE)
def histogram_chart(title: str, details: str, values: Mapping[str, np.ndarray], x_label: str) -> Html:
    """Draw a histogram of each model's values, at most 1, over each other; dashed lines show their means."""
    chart, axes = _new_chart(values)
    lowest_bin = min(float(np.floor(model_values.min() / BIN_WIDTH)) for model_values in values.values())
    edges = np.arange(min(lowest_bin, 0), round(1 / BIN_WIDTH) + 1) * BIN_WIDTH
    for number, (name, model_values) in enumerate(values.items()):
        percent = np.full(len(model_values), 100 / len(model_values))
        options: dict[str, Any] = {"bins": edges, "weights": percent, "color": _color(number)}
        axes.hist(model_values.clip(max=1), alpha=0.25, **options)
        axes.hist(model_values.clip(max=1), histtype="step", linewidth=1.5, label=name, **options)
        axes.axvline(model_values.mean(), color=_color(number), linestyle="--", linewidth=1.2)
    axes.set(xlabel=x_label, ylabel="images (%)")
    return _to_figure(chart, title, details)


def arrange_charts(charts: Iterable[Html]) -> Html:
    """Arrange charts in rows of two or three; a single one does not fill the row."""
    columns = "grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr))"
    return element("div", *charts, class_="grid", style=f"margin: 1rem 0; {columns}")


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _new_chart(names: Collection[str], height: float = 3.0) -> tuple[Figure, Any]:
    """Return a figure, and its axes of this height in inches. There is room below for a legend of the names."""
    chart = Figure(figsize=(5.2, height + LEGEND_LINE * len(names)), layout="constrained")
    return chart, chart.subplots()


def _to_figure(chart: Figure, title: str, details: str) -> Html:
    """Return the chart with a legend as an HTML figure with a caption."""
    chart.legend(loc="outside lower left")  # below the axes, where it hides nothing
    text = io.StringIO()
    chart.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()
    return figure(Html(drawing[drawing.index("<svg") :]), title, details)
