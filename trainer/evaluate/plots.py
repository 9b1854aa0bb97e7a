"""Plots of a report as inline SVG, on white, so that they look alike on light and dark pages."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.page import Html, element, figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")  # told apart by everyone
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "imagenet-attn",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # names may hold dollars
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6ea",
    "legend.frameon": False,
}
BIN = 0.05  # of CC
SEVERITY = "severity"  # an axis of whole numbers
Lines = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float], float]]]  # by model: x, y, opacity of each line


@matplotlib.rc_context(STYLE)
def lines(title: str, details: str, found: Lines, x: str, y: str, marks: bool = True) -> Html:
    """Lines of each model in its colour."""
    chart, axes = _chart()
    for number, (name, curves) in enumerate(found.items()):
        for index, (across, up, opacity) in enumerate(curves):
            axes.plot(
                across,
                up,
                color=_colour(number),
                alpha=opacity,
                marker="o" if marks else None,
                markersize=3,
                linewidth=1.4,
                label=name if index == 0 else None,
            )
    axes.set(xlabel=x, ylabel=y)
    axes.set_ylim(0, 1.15 * max([*axes.get_ylim(), 1e-3]))
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], integer=x == SEVERITY))
    axes.legend()
    return _shown(chart, title, details)


@matplotlib.rc_context(STYLE)
def bars(title: str, details: str, labels: Sequence[str], found: Mapping[str, Sequence[float]], x: str) -> Html:
    """A bar of each model for each label, from top to bottom."""
    chart, axes = _chart(height=0.7 + 0.13 * len(labels) * (len(found) + 0.7) + 0.2 * len(found))
    thick = 0.8 / len(found)
    at = np.arange(len(labels))
    for number, (name, values) in enumerate(found.items()):
        axes.barh(at + (number - (len(found) - 1) / 2) * thick, values, thick, color=_colour(number), label=name)
    axes.set_yticks(at, [label.replace("_", " ") for label in labels])
    axes.set(xlabel=x, ylim=(len(labels) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.5 / chart.get_figheight() - 0.02), ncols=1)
    return _shown(chart, title, details)


@matplotlib.rc_context(STYLE)
def histograms(title: str, details: str, found: Mapping[str, np.ndarray], x: str) -> Html:
    """How often each model's values occur, one over the other, with their means as dashed lines."""
    chart, axes = _chart()
    lowest = min(float(np.floor(values.min() / BIN)) for values in found.values())
    edges = np.arange(min(lowest, 0), round(1 / BIN) + 1) * BIN
    for number, (name, values) in enumerate(found.items()):
        weights = np.full(len(values), 100 / len(values))
        options: dict[str, Any] = {"bins": edges, "weights": weights, "color": _colour(number)}
        axes.hist(values.clip(max=1), alpha=0.25, **options)
        axes.hist(values.clip(max=1), histtype="step", linewidth=1.5, label=name, **options)
        axes.axvline(values.mean(), color=_colour(number), linestyle="--", linewidth=1.2)
    axes.set(xlabel=x, ylabel="images (%)")
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])
    axes.legend(loc="upper left")
    return _shown(chart, title, details)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _chart(height: float = 3.0) -> tuple[Figure, Any]:
    chart = Figure(figsize=(5.2, height), layout="constrained")
    return chart, chart.subplots()


def _shown(chart: Figure, title: str, details: str) -> Html:
    text = io.StringIO()
    chart.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()
    return figure(Html(drawing[drawing.index("<svg") :]), title, details)


def side_by_side(charts: Iterable[Html]) -> Html:
    """Charts, two or three in a row; a single one does not fill the row."""
    columns = "grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr))"
    return element("div", *charts, class_="grid", style=f"margin: 1rem 0; {columns}")
