"""The statistics of a data set as tables for people."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from common.text import join_names
from labeler.inspection.summary import QUANTILES

NAMES_SHOWN = 5  # in one line; the JSON object has all
Report = Mapping[str, Any]


def format_tables(dataset: str, report: Report) -> str:
    """The object that `labeler.stats` prints last, section by section."""
    state = "complete" if report["complete"] else "unfinished; this is what is committed so far"
    parts = [
        f"{dataset}: {state}",
        _section("Data set", {name: report[name] for name in ("samples", "shards", "bytes")}),
        _section("Classes", _classes(report["classes"])),
        _section("Quantiles", _quantiles(report)),
        _section("Maps", _maps(report["maps"])),
        _section("Gaze points", _gaze(report["gaze"])),
        _section("Images", _images(report["images"])),
        _section("Duplicates", _duplicates(report["duplicates"])),
        _section("Left out", report["failures"] or {"none": ""}),
    ]
    if report["unreadable"]:
        parts.append(_section("Could not be read, wholly or in part", dict.fromkeys(report["unreadable"], "")))
    return "\n\n".join(parts)


def _section(title: str, rows: Mapping[str, object]) -> str:
    width = max(map(len, rows))
    return "\n".join([title] + [f"  {label:{width}}  {_text(value)}".rstrip() for label, value in rows.items()])


def _classes(found: Report | None) -> dict[str, object]:
    if found is None:
        return {"no classes": ""}
    rows: dict[str, object] = {"classes": found["classes"]}
    if found["median"] is not None:
        rows |= {
            "fewest samples": _having(found["fewest"]),
            "median": found["median"],
            "most samples": _having(found["most"]),
            "most / fewest": found["imbalance"],
        }
    missing = found["without_samples"]
    return rows | {"without samples": f"{len(missing):,} ({_names(missing)})" if missing else "none"}


def _having(extreme: Report) -> str:
    return f"{extreme['samples']:,} ({_names(extreme['names'], extreme['classes'])})"


def _quantiles(report: Report) -> dict[str, object]:
    """One line a distribution, in columns."""
    names = [f"{percent}%" for percent in QUANTILES]
    distributions = {
        "map's maximum": report["maps"]["map_max"],
        "gaze points": report["gaze"]["per_image"],
        "width": report["images"]["width"],
        "height": report["images"]["height"],
    }
    rows = {label: [_text(values[name]) for name in names] for label, values in distributions.items()}
    return {label: "".join(f"{cell:>11}" for cell in cells) for label, cells in {"": names, **rows}.items()}


def _maps(found: Report) -> dict[str, object]:
    rows: dict[str, object] = {
        "mean, of the maximum": found["mean"],
        "area, of the frame": found["area"],
        "in the central third": f"{_text(found['central_third_percent'])} % of the mass (11.1 % if it were even)",
    }
    for index, cells in enumerate(found["grid_percent"] or []):
        label = "mean map, % of the mass" if index == 0 else " " * index  # a label of its own for each line
        rows[label] = "".join(f"{cell:6.2f}" for cell in cells)
    return rows


def _gaze(found: Report) -> dict[str, object]:
    return {
        "points": found["points"],
        "mean of an image": found["per_image"]["mean"],
        "share without any": found["share_without"],
        f"share at the cap of {found['cap']:,}": found["share_at_cap"],
        "mean strength": found["mean_strength"],
        "mean x, y": _pair(found["mean_position"]),
        "spread of x, y": _pair(found["spread"]),
    }


def _images(found: Report) -> dict[str, object]:
    formats = ", ".join(f"{count:,} {name}" for name, count in found["reencoded"].items())
    return {"turned by EXIF": found["turned"], "re-encoded": formats or "none"}


def _duplicates(found: Report) -> dict[str, object]:
    rows: dict[str, object] = {
        "groups": found["groups"],
        "surplus images": found["surplus"],
        "groups across classes": found["groups_across_classes"],
        "images in those": found["images_across_classes"],
    }
    groups = [f"{group['images']:,} times: {_names(group['sources'], group['images'])}" for group in found["largest"]]
    return rows | {"largest" if index == 0 else " " * index: group for index, group in enumerate(groups)}


def _pair(values: list[float] | None) -> str:
    return ", ".join(map(_text, values)) if values else "-"


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _names(names: Iterable[str], total: int | None = None) -> str:
    """The first of so many names of folders or files; what could move a terminal's cursor is escaped."""
    shown = [json.dumps(name, ensure_ascii=False)[1:-1] for name in names]
    return join_names(shown, NAMES_SHOWN, total)
