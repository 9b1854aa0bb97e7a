"""Self-contained HTML pages: pictures, plots, tables, everything escaped; no scripts, and nothing is fetched."""

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError
from common.orientation import to_upright_image, to_upright_point
from common.storage.files import write_atomically

MEDIA_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
VOID_TAGS = ("img", "input", "meta", "wbr")  # have no closing tag
INFERNO = ("#000004", "#210c4a", "#56106e", "#89226a", "#bb3754", "#e35932", "#f98c0a", "#f9c932", "#fcffa4")
LONGEST_SIDE = 320  # pixels of a picture on a page
JPEG_QUALITY = 80
HEAT_SIDE = 112  # pixels of a map on a page; the browser interpolates
HEAT_OPACITY = 0.85  # at the map's maximum
HEAT_GAMMA = 0.8  # the lower, the more of the faint attention shows
POINT_RADIUS = 0.034  # of the longest side, at strength 1
CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 520, 210, 24
MOST_BAR_LABELS = 12
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser itself keeps the page from asking


class Html(str):
    """Markup, ready to be put on a page. Any other str is text, which `element` escapes."""


STYLE = Html(
    """
:root { color-scheme: light dark; --ink: #1c1d21; --faint: #62656f; --line: #dcdde3; --card: #fff; --ground: #f5f5f8;
  --well: #e9e9ef; --accent: #bb3754; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --faint: #9c9fab; --line: #34363f; --card: #1f2027;
  --ground: #141519; --well: #101114; --accent: #f0715f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 1500px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; } h2 { margin: 2.8rem 0 .4rem; font-size: 1.3rem; }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem; } p { margin: .4rem 0 1rem; max-width: 80ch; color: var(--faint); }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.4rem 0; }
.tiles div { flex: 1 1 auto; min-width: 5.5rem; padding: .7rem .9rem; border: 1px solid var(--line);
  border-radius: 10px; background: var(--card); }
.tiles dt, figcaption { color: var(--faint); font-size: .82rem; } dl, dd { margin: 0; }
.tiles dd { font-size: 1.35rem; font-weight: 650; line-height: 1.3; }
.tiles dd.long { font-size: .95rem; line-height: 1.85; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 10px; background: var(--card); overflow: hidden;
  display: flex; flex-direction: column; }
figure svg, figure > img { display: block; width: 100%; height: auto; } .pair { display: grid; grid-auto-flow: column; }
figure > .picture { aspect-ratio: 8 / 7; object-fit: contain; background: var(--well); }
figcaption { padding: .6rem .8rem .7rem; } figcaption b { display: block; color: var(--ink);
  font-size: .8rem; line-height: 1.35; margin-bottom: .15rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { padding: .45rem .8rem; text-align: left; vertical-align: top; max-width: 36rem; overflow-wrap: break-word; }
th { color: var(--faint); font-weight: 600; } tr + tr td, thead + tbody td { border-top: 1px solid var(--line); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.notes { margin: 1rem 0; padding: .7rem 1rem .7rem 2rem; border: 1px solid var(--accent); border-radius: 10px; }
.chart { padding: .6rem .8rem 0; } .chart rect { fill: var(--accent); } .chart line { stroke: var(--line); }
.chart text { fill: var(--faint); font-size: 12px; text-anchor: middle; }
.point circle { fill: rgba(0, 0, 0, .35); stroke: #fff; }
.point text { fill: #fff; text-anchor: middle; dominant-baseline: central; font-weight: 700; }
.switches { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; padding: .6rem 0;
  background: var(--ground); color: var(--faint); }
.switches input { accent-color: var(--accent); } .switches label { color: var(--ink); cursor: pointer; }
.scale { display: inline-block; width: 9rem; height: .8rem; border-radius: 4px; margin: 0 .4rem; vertical-align: middle;
  background: linear-gradient(to right, INFERNO); }
body:has(#show-heat:not(:checked)) .photograph ~ .heat, body:has(#show-points:not(:checked)) .point { display: none; }
""".replace("INFERNO", ", ".join(INFERNO))
)


def escape(text: object) -> Html:
    """The one place where text becomes markup: `Html` stays, anything else is escaped."""
    if isinstance(text, Html):
        return text
    encodable = str(text).encode("utf-8", "replace").decode()  # half a surrogate pair could not be written
    return Html(html.escape(encodable, quote=True))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """`<tag ...>content</tag>`; attributes are always text; in their names `_` means `-`, a last one nothing."""
    named = {name.removesuffix("_").replace("_", "-"): value for name, value in attributes.items()}
    opening = "".join(f' {name}="{escape(str(value))}"' for name, value in named.items())
    inner = "".join(map(escape, content))
    return Html(f"<{tag}{opening}>" + ("" if tag in VOID_TAGS else f"{inner}</{tag}>"))


def document(title: str, subtitle: str, *content: Html) -> Html:
    """The whole page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", STYLE),
    )
    header = element("header", element("h1", title), paragraph(subtitle))
    return Html("<!DOCTYPE html>\n" + element("html", head, element("body", header, *content), lang="en") + "\n")


def write_page(path: Path, page: Html) -> None:
    """Write a page, whole or not at all, making its folder if need be. Raises UserError."""
    try:
        write_atomically(path, page.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; expected the path of a file to write") from None


def section(title: str, *content: Html) -> Html:
    """A part of the page with its heading."""
    return element("section", element("h2", title), *content)


def paragraph(*content: object) -> Html:
    """A paragraph of text."""
    return element("p", *content)


def notes(lines: Sequence[str]) -> Html:
    """A framed list of things that the reader should know; nothing where there are none."""
    return element("ul", *(element("li", line) for line in lines), class_="notes") if lines else Html("")


def tiles(figures: Mapping[str, object]) -> Html:
    """Key figures by name: a row of tiles with big numbers, integers with thousands separators."""
    return element("dl", *(_tile(name, value) for name, value in figures.items()), class_="tiles")


def _tile(name: str, value: object) -> Html:
    text = _spelled(value)
    return element("div", element("dt", name), element("dd", text, class_="long" if len(text) > 16 else "short"))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table with a heading row; numbers stand right."""
    head = element("thead", element("tr", *(element("th", name) for name in columns)))
    body = element("tbody", *(element("tr", *(_cell(value) for value in row)) for row in rows))
    return element("div", element("table", head, body), class_="scroll")


def _cell(value: object) -> Html:
    return element("td", _spelled(value), class_="number") if isinstance(value, int | float) else element("td", value)


def _spelled(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def grid(figures: Iterable[Html], wide: bool = False) -> Html:
    """Figures side by side, as many as the window holds; `wide` for charts."""
    return element("div", *figures, class_="grid wide" if wide else "grid")


def breakable(path: str) -> Html:
    """A path that a narrow column breaks after a `/`, if it can."""
    return Html(element("wbr").join(escape(part) for part in path.replace("/", "/\0").split("\0")))


def figure(content: Html, name: str, details: str = "") -> Html:
    """A picture or chart with its caption: a name and, below, details."""
    return element("figure", content, element("figcaption", element("b", name), details))


def data_uri(image: bytes) -> str:
    """JPEG or PNG bytes as an address that holds the picture itself. Raises ValueError on other bytes."""
    for magic, media_type in MEDIA_TYPES.items():
        if image.startswith(magic):
            return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    raise ValueError(f"expected the bytes of a JPEG or PNG, found {image[:8]!r}")


def picture(image: bytes, description: str) -> Html:
    """JPEG or PNG bytes as a picture; the description is for those who cannot see it."""
    return element("img", src=data_uri(image), alt=description, class_="picture")


def attention_picture(
    image: Image.Image | None, attention: np.ndarray, points: np.ndarray, size: tuple[int, int], orientation: int = 1
) -> Html:
    """A picture under its attention map (class `heat`) and its numbered gaze points (class `point`), turned upright.

    attention: uint8 [H, W], covers the frame; points: [n, 3] of x, y in [0, 1] and strength in [0, 1].
    All lie in the frame of the stored pixels, whose width and height are `size`; `orientation` is EXIF's, 1 to 8.
    Without an image the map is shown alone, opaque.
    """
    scale = LONGEST_SIDE / max(size)
    width, height = (max(1, round(side * scale)) for side in (size if orientation < 5 else size[::-1]))
    gray = Image.fromarray(attention)
    layers = [_layer(color_map(to_upright_image(gray, orientation), opaque=image is None), width, height, "heat")]
    if image is not None:
        layers.insert(0, _layer(thumbnail(to_upright_image(image, orientation)), width, height, "photograph"))
    for rank, (x, y, strength) in enumerate(points.tolist(), start=1):
        shown_x, shown_y = to_upright_point(x, y, orientation)
        layers.append(_point(rank, shown_x * width, shown_y * height, strength))
    names = {"role": "img", "aria_label": f"attention map with {len(points)} gaze points", "class_": "picture"}
    return element("svg", *layers, viewBox=f"0 0 {width} {height}", **names)


def layer_switches(points: bool = True, lowest: str = "none") -> Html:
    """Check boxes that show and hide the maps and points of every `attention_picture`, and the maps' colour scale.

    `lowest` says what the scale begins with.
    """
    layers = {"show-heat": "attention maps"} | ({"show-points": "gaze points"} if points else {})
    box = {"type": "checkbox", "checked": ""}
    boxes = [element("label", element("input", **box, id=name), f" {label}") for name, label in layers.items()]
    scale = element("span", f"attention: {lowest}", element("span", class_="scale"), "the map's maximum")
    return element("div", *boxes, scale, class_="switches")


def thumbnail(image: Image.Image) -> bytes:
    """The image as a JPEG whose longest side is at most `LONGEST_SIDE`."""
    small, buffer = image.convert("RGB"), io.BytesIO()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    small.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def normalize_map(attention: np.ndarray) -> np.ndarray:
    """A map [H, W], not negative -> uint8, divided by its maximum, as `attention_picture` takes it."""
    return np.asarray((attention / max(float(attention.max()), 1e-12) * 255).clip(0, 255).round(), np.uint8)


def color_map(gray: Image.Image, opaque: bool) -> bytes:
    """An 8-bit grey map -> PNG in the inferno colours; the lower the value the more transparent, unless `opaque`."""
    small = gray.resize((HEAT_SIDE, HEAT_SIDE), Image.Resampling.BILINEAR)
    small.putpalette(heat_colors().tobytes())
    opacity = np.full(256, 255.0) if opaque else np.linspace(0, 1, 256) ** HEAT_GAMMA * 255 * HEAT_OPACITY
    buffer = io.BytesIO()
    small.save(buffer, "PNG", transparency=opacity.round().astype(np.uint8).tobytes(), optimize=True)
    return buffer.getvalue()


def heat_colors() -> np.ndarray:
    """uint8 [256, 3]: the inferno scale, which is even to the eye, from nine of its colours."""
    anchors = np.array([list(bytes.fromhex(colour[1:])) for colour in INFERNO])
    positions = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(positions, range(len(anchors)), channel) for channel in anchors.T]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def _layer(image: bytes, width: int, height: int, name: str) -> Html:
    return element("image", href=data_uri(image), width=width, height=height, preserveAspectRatio="none", class_=name)


def _point(rank: int, x: float, y: float, strength: float) -> Html:
    """A circle whose area tells the strength, with the point's rank in it."""
    radius = POINT_RADIUS * LONGEST_SIDE * math.sqrt(min(max(strength, 0.2), 1.0))
    tip = element("title", f"gaze point {rank}, strength {strength:.2f}")
    circle = element("circle", cx=round(x, 1), cy=round(y, 1), r=round(radius, 1), stroke_width=1.5)
    number = element("text", rank, x=round(x, 1), y=round(y, 1), font_size=round(radius * 1.1, 1))
    return element("g", tip, circle, number, class_="point")


def bar_chart(labels: Sequence[str], values: Sequence[int], description: str) -> Html:
    """A bar chart: one bar a label, its value shown on hover, and above the highest."""
    highest, step = max(values, default=0), CHART_WIDTH / max(len(values), 1)
    floor, every = CHART_HEIGHT - CHART_MARGIN, math.ceil(len(labels) / MOST_BAR_LABELS)
    parts = [element("line", x1=0, x2=CHART_WIDTH, y1=floor, y2=floor)]
    for index, (label, value) in enumerate(zip(labels, values, strict=True)):
        middle, tall = (index + 0.5) * step, (floor - CHART_MARGIN) * value / max(highest, 1)
        box = {"x": round(middle - step * 0.42, 1), "y": round(floor - tall, 1), "width": round(step * 0.84, 1)}
        parts.append(element("rect", element("title", f"{label}: {value:,}"), **box, height=round(tall, 1), rx=2))
        if index % every == 0:
            parts.append(element("text", label, x=round(middle, 1), y=CHART_HEIGHT - 8))
        if value == highest > 0:
            parts.append(element("text", f"{value:,}", x=round(middle, 1), y=round(floor - tall - 6, 1)))
    box_of_chart = f"0 0 {CHART_WIDTH} {CHART_HEIGHT}"
    return element("svg", *parts, viewBox=box_of_chart, role="img", aria_label=description, class_="chart")


def histogram(name: str, values: Sequence[float], edges: np.ndarray) -> Html:
    """A figure of how many values lie between the edges; each bar is named by its lower edge."""
    counts = np.histogram(values, edges)[0].tolist()
    return figure(
        bar_chart([f"{edge:g}" for edge in edges[:-1]], counts, f"histogram: {name}"),
        name,
        "each bar named by its lower end",
    )
