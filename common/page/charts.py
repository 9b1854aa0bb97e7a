"""Bar charts, histograms and line charts as inline SVG."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.page.html import Html, element, figure

CHART_WIDTH, CHART_HEIGHT = 520, 210  # in units of the SVG
CHART_MARGIN = 24  # above the highest bar and below the baseline, for their labels
MAX_BAR_LABELS = 12  # with more bars, only every second, third, ... is labeled
LINES_WIDTH, LINES_HEIGHT = 420, 220  # of line charts
PLOT_LEFT, PLOT_RIGHT = 48, LINES_WIDTH - 12  # ends of the x axis; left of it are the labels of the y axis
PLOT_TOP, PLOT_BOTTOM = 12, LINES_HEIGHT - 40  # ends of the y axis
MAX_X_TICKS, MAX_Y_TICKS = 13, 6
MIN_RELATIVE_SPAN = 0.02  # smallest range of the y axis, as a fraction of the largest value
MIN_SPAN = 1e-6  # smallest range of the y axis
MAX_MARKERS = 50  # on each line; with more points, only every second, third, ... and the last have one
SERIES_COLORS = 6  # colors of lines in the style sheet; further lines use them again

Points = Sequence[tuple[float, float]]  # x and y


def bar_chart(labels: Sequence[str], values: Sequence[int], description: str) -> Html:
    """Draw one bar per label. A bar shows its value on hover; the value of the highest is also written above it."""
    highest, bar_step = max(values, default=0), CHART_WIDTH / max(len(values), 1)
    baseline, label_step = CHART_HEIGHT - CHART_MARGIN, math.ceil(len(labels) / MAX_BAR_LABELS)
    parts = [element("line", x1=0, x2=CHART_WIDTH, y1=baseline, y2=baseline)]
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        middle, height = (index + 0.5) * bar_step, (baseline - CHART_MARGIN) * value / max(highest, 1)
        left, top, width = middle - bar_step * 0.42, baseline - height, bar_step * 0.84
        box = {"x": round(left, 1), "y": round(top, 1), "width": round(width, 1), "height": round(height, 1)}
        parts.append(element("rect", element("title", f"{label}: {value:,}"), **box, rx=2))
        if index % label_step == 0:
            parts.append(element("text", label, x=round(middle, 1), y=CHART_HEIGHT - 8))
        if value == highest > 0:
            parts.append(element("text", f"{value:,}", x=round(middle, 1), y=round(top - 6, 1)))
    view_box = f"0 0 {CHART_WIDTH} {CHART_HEIGHT}"
    return element("svg", *parts, viewBox=view_box, role="img", aria_label=description, class_="chart")


def histogram(name: str, values: Sequence[float], edges: np.ndarray) -> Html:
    """Return a figure with the number of values in each bin. Each bar is labeled with the lower edge of its bin."""
    counts = np.histogram(values, edges)[0].tolist()
    chart = bar_chart([f"{edge:g}" for edge in edges[:-1]], counts, f"histogram: {name}")
    return figure(chart, name, "each bar is labeled with its lower edge")


class _Axis(NamedTuple):
    """An axis: the values at its ends, the coordinates of its ends, and its ticks."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]

    def position(self, value: float) -> float:
        """Return the coordinate of a value."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def line_chart(series: Mapping[str, Points], description: str, x_label: str) -> Html:
    """Draw a line per series, with axes, and a legend that states the last value of each.

    A marker shows its value on hover; a series with a single point is a marker without a line.

    Args:
        series: finite points by name, sorted by x, which are whole numbers such as epochs.
        description: text for readers who cannot see the chart.
        x_label: what x counts, such as "epoch".
    """
    drawn = {name: points for name, points in series.items() if points}
    x_axis = _make_x_axis([x for points in drawn.values() for x, _ in points])
    y_axis = _make_y_axis([y for points in drawn.values() for _, y in points])
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.position(tick)
        parts.append(element("line", x1=PLOT_LEFT, x2=PLOT_RIGHT, y1=y, y2=y))
        parts.append(element("text", f"{tick:.6g}", x=PLOT_LEFT - 10, y=y + 4, class_="y"))
    for tick in x_axis.ticks:
        parts.append(element("text", f"{tick:.6g}", x=x_axis.position(tick), y=PLOT_BOTTOM + 18))
    parts.append(element("text", x_label, x=(PLOT_LEFT + PLOT_RIGHT) / 2, y=LINES_HEIGHT - 4))
    for number, (name, points) in enumerate(drawn.items()):
        parts.append(_draw_line(name, points, x_axis, y_axis, x_label, _series_class(number)))
    view_box = f"0 0 {LINES_WIDTH} {LINES_HEIGHT}"
    drawing = element("svg", *parts, viewBox=view_box, role="img", aria_label=description, class_="chart lines")
    entries = (
        element("span", f"{name} ", element("b", f"{points[-1][1]:.4g}"), class_=_series_class(number))
        for number, (name, points) in enumerate(drawn.items())
    )
    return element("div", element("div", *entries, class_="legend"), drawing)


def place_ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """Return round numbers at equal distances, at least two and at most `most`, whose range covers `low` to `high`.

    The distance is 1, 2 or 5 times a power of ten, and at least 1 if `whole`. `high` must be greater than `low`, and
    `most` at least 4.
    """
    smallest = math.floor(math.log10(high - low)) - 1
    for power in itertools.count(max(smallest, 0) if whole else smallest):
        for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power):
            first, last = math.floor(low / step), math.ceil(high / step)
            if last - first < most:
                return [round(number * step, 12) for number in range(first, last + 1)]
    raise AssertionError("the distance grows without limit")


def _make_x_axis(values: Sequence[float]) -> _Axis:
    """Return an axis that ends at the lowest and the highest value."""
    low = min(values, default=0)
    high = max(max(values, default=0), low + 1)
    ticks = [tick for tick in place_ticks(low, high, MAX_X_TICKS, whole=True) if low <= tick <= high]
    return _Axis(low, high, PLOT_LEFT, PLOT_RIGHT, ticks)


def _make_y_axis(values: Sequence[float]) -> _Axis:
    """Return an axis that ends at ticks. Differences that are small in relation to the values remain small."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    high = max(high, low + max(MIN_RELATIVE_SPAN * max(abs(low), abs(high)), MIN_SPAN))
    ticks = place_ticks(low, high, MAX_Y_TICKS)
    return _Axis(ticks[0], ticks[-1], PLOT_BOTTOM, PLOT_TOP, ticks)


def _draw_line(name: str, points: Points, x_axis: _Axis, y_axis: _Axis, x_label: str, color: str) -> Html:
    centers = [(x_axis.position(x), y_axis.position(y)) for x, y in points]
    every = math.ceil(len(points) / MAX_MARKERS)
    markers = [
        element("circle", element("title", f"{name}, {x_label} {x:g}: {y:.4g}"), cx=center_x, cy=center_y, r=3)
        for index, ((x, y), (center_x, center_y)) in enumerate(zip(points, centers, strict=True))
        if index % every == 0 or index == len(points) - 1
    ]
    line = element("polyline", points=" ".join(f"{x},{y}" for x, y in centers))
    return element("g", line, *markers, class_=color)


def _series_class(number: int) -> str:
    return f"series-{number % SERIES_COLORS + 1}"
