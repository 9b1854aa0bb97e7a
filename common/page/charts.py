"""Bar charts and histograms as inline SVG."""

import math
from collections.abc import Sequence

import numpy as np

from common.page.html import Html, element, figure

CHART_WIDTH, CHART_HEIGHT = 520, 210  # in units of the SVG
CHART_MARGIN = 24  # above the highest bar and below the baseline, for their labels
MAX_BAR_LABELS = 12  # with more bars, only every second, third, ... is labeled


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
