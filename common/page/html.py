"""HTML markup for self-contained pages: elements, sections, tables and figures, with all text escaped.

The pages contain no scripts and load nothing: styles and images are embedded, and a Content-Security-Policy blocks
every request.
"""

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.errors import UserError
from common.storage.files import write_atomically

MEDIA_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}  # by the first bytes of the file
VOID_TAGS = ("img", "input", "meta", "wbr")  # elements without a closing tag
INFERNO = ("#000004", "#210c4a", "#56106e", "#89226a", "#bb3754", "#e35932", "#f98c0a", "#f9c932", "#fcffa4")
CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MAX_LARGE_TILE_CHARACTERS = 16  # a tile shows longer text in a smaller font
NUMBER_OR_NOTHING = re.compile(r"([+-]?\d[\d.,]*(e[+-]?\d+)?%?( ± [\d.,]+)?( \[.*\])?)?")  # ± error, [interval]


class Html(str):
    """Markup that goes onto a page as it is. `escape` and `element` treat any other str as text and escape it."""


STYLE = Html(
    """
:root { color-scheme: light dark; --ink: #1c1d21; --faint: #62656f; --line: #dcdde3; --card: #fff; --ground: #f5f5f8;
  --well: #e9e9ef; --accent: #bb3754; --series-1: #0067b1; --series-2: #c8500a; --series-3: #00805d;
  --series-4: #a8438f; --series-5: #806600; --series-6: #5b5fc7; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --faint: #9c9fab; --line: #34363f; --card: #1f2027;
  --ground: #141519; --well: #101114; --accent: #f0715f; --series-1: #5cb3f0; --series-2: #ff9a5c;
  --series-3: #3fcf9f; --series-4: #e792d2; --series-5: #e3c542; --series-6: #a9adff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 1500px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; } h2 { margin: 2.8rem 0 .4rem; font-size: 1.3rem; }
h3 { margin: 1.6rem 0 .5rem; font-size: 1rem; } p { margin: .4rem 0 1rem; max-width: 80ch; color: var(--faint); }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.4rem 0; }
.tiles div { flex: 1 1 auto; max-width: 18rem; min-width: 5.5rem; padding: .7rem .9rem; border: 1px solid var(--line);
  border-radius: 10px; background: var(--card); }
.tiles dt, figcaption { color: var(--faint); font-size: .82rem; } dl, dd { margin: 0; }
.tiles dd { font-size: 1.35rem; font-weight: 650; line-height: 1.3; }
.tiles dd.long { font-size: .95rem; line-height: 1.85; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
.grid.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
.grid.wide > :only-child { max-width: 740px; } .scroll + .grid { margin-top: 1rem; }
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
td .picture { display: block; width: clamp(84px, 10vw, 150px); height: auto; } td small { color: var(--faint); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.notes { margin: 1rem 0; padding: .7rem 1rem .7rem 2rem; border: 1px solid var(--accent); border-radius: 10px; }
.chart { padding: .6rem .8rem 0; } .chart rect { fill: var(--accent); } .chart line { stroke: var(--line); }
.chart text { fill: var(--faint); font-size: 12px; text-anchor: middle; }
.chart .y { text-anchor: end; } .lines polyline { fill: none; stroke: var(--series); stroke-width: 2; }
.lines circle { fill: var(--series); }
.series-1 { --series: var(--series-1); } .series-2 { --series: var(--series-2); }
.series-3 { --series: var(--series-3); } .series-4 { --series: var(--series-4); }
.series-5 { --series: var(--series-5); } .series-6 { --series: var(--series-6); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; padding: .7rem .9rem 0; font-size: .85rem; }
.legend span::before { content: ""; display: inline-block; width: .8em; height: .8em; border-radius: 50%;
  margin-right: .4em; background: var(--series); }
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
    """Return text as markup with special characters escaped. `Html` is returned unchanged."""
    if isinstance(text, Html):
        return text
    encodable = str(text).encode("utf-8", "replace").decode()  # UTF-8 cannot encode lone surrogates
    return Html(html.escape(encodable, quote=True))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """Return `<tag attributes>content</tag>`.

    Content is escaped unless it is `Html`; attribute values are always escaped. In attribute names, a trailing `_` is
    removed (`class_`) and any other `_` becomes `-` (`stroke_width`).
    """
    by_name = {name.removesuffix("_").replace("_", "-"): value for name, value in attributes.items()}
    opening = "".join(f' {name}="{escape(str(value))}"' for name, value in by_name.items())
    inner = "".join(map(escape, content))
    return Html(f"<{tag}{opening}>" + ("" if tag in VOID_TAGS else f"{inner}</{tag}>"))


def document(title: str, subtitle: str, *content: Html, refresh: int | None = None) -> Html:
    """Return a complete page: title, subtitle and content. A browser loads it again every `refresh` seconds."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=CONTENT_SECURITY_POLICY),
        element("meta", http_equiv="refresh", content=refresh) if refresh else "",
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", STYLE),
    )
    header = element("header", element("h1", title), paragraph(subtitle))
    return Html("<!DOCTYPE html>\n" + element("html", head, element("body", header, *content), lang="en") + "\n")


def write_page(path: Path, page: Html) -> None:
    """Write a page atomically and create its folder if necessary. Raises UserError if the file cannot be written."""
    try:
        write_atomically(path, page.encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; expected the path of a writable file") from None


def section(title: str, *content: Html) -> Html:
    """Return a section with a heading."""
    return element("section", element("h2", title), *content)


def paragraph(*content: object) -> Html:
    """Return a paragraph of text."""
    return element("p", *content)


def notes(lines: Sequence[str]) -> Html:
    """Return a framed list of remarks for the reader, or nothing if there are none."""
    return element("ul", *(element("li", line) for line in lines), class_="notes") if lines else Html("")


def tiles(figures: Mapping[str, object]) -> Html:
    """Return key figures by name as a row of tiles. Numbers have thousands separators."""
    return element("dl", *(_tile(name, value) for name, value in figures.items()), class_="tiles")


def _tile(name: str, value: object) -> Html:
    text = _format_value(value)
    size = "long" if len(text) > MAX_LARGE_TILE_CHARACTERS else "short"
    return element("div", element("dt", name), element("dd", text, class_=size))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """Return a table with a header row, without the columns that are empty in all rows.

    Columns of numbers, also formatted ones such as "0.5 ± 0.1", are right-aligned; numbers get thousands separators.
    """
    lines = list(rows)
    shown = [index for index in range(len(columns)) if not lines or any(line[index] != "" for line in lines)]
    numeric = {index for index in shown if lines and all(_is_number(line[index]) for line in lines)}

    def row(tag: str, cells: Sequence[object]) -> Html:
        return element("tr", *(_cell(tag, cells[index], index in numeric) for index in shown))

    head, body = element("thead", row("th", columns)), element("tbody", *(row("td", line) for line in lines))
    return element("div", element("table", head, body), class_="scroll")


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) or NUMBER_OR_NOTHING.fullmatch(str(cell)) is not None


def _cell(tag: str, content: object, numeric: bool) -> Html:
    text = _format_value(content) if isinstance(content, int | float) else content
    return element(tag, text, class_="number") if numeric else element(tag, text)


def _format_value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def grid(figures: Iterable[Html], wide: bool = False) -> Html:
    """Arrange figures in as many columns as fit the window. `wide` makes the columns wide enough for charts."""
    return element("div", *figures, class_="grid wide" if wide else "grid")


def breakable(path: str) -> Html:
    """Return a path in which a narrow column can break the line after each `/`."""
    return Html(element("wbr").join(escape(part) for part in path.replace("/", "/\0").split("\0")))


def figure(content: Html, name: str, details: str = "") -> Html:
    """Return an image or chart with a caption: its name and, below it, details."""
    return element("figure", content, element("figcaption", element("b", name), details))


def data_uri(image: bytes) -> str:
    """Return JPEG or PNG bytes as a `data:` URI. Raises ValueError for any other bytes."""
    for magic, media_type in MEDIA_TYPES.items():
        if image.startswith(magic):
            return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    raise ValueError(f"expected the bytes of a JPEG or PNG, found {image[:8]!r}")


def picture(image: bytes, description: str) -> Html:
    """Return an `<img>` that embeds JPEG or PNG bytes. The description is its alternative text."""
    return element("img", src=data_uri(image), alt=description, class_="picture")
