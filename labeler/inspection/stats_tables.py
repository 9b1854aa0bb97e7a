"""The statistics of a data set as text tables."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from common.text import join_names
from labeler.inspection.summary import QUANTILES

MAX_NAMES_PER_LINE = 5

Report = Mapping[str, Any]


def format_tables(dataset: str, report: Report) -> str:
    """Format the report of `compute_statistics`, one table per section."""
    state = "complete" if report["complete"] else "unfinished; these are the shards committed so far"
    parts = [
        f"{dataset}: {state}",
        _format_section("Data set", {name: report[name] for name in ("samples", "shards", "bytes")}),
        _format_section("Classes", _class_rows(report["classes"])),
        _format_section("Quantiles", _quantile_rows(report)),
        _format_section("Maps", _map_rows(report["maps"])),
        _format_section("Gaze points", _gaze_rows(report["gaze"])),
        _format_section("Images", _image_rows(report["images"])),
        _format_section("Duplicates", _duplicate_rows(report["duplicates"])),
        _format_section("Failed images", report["failures"] or {"none": ""}),
    ]
    if "near_duplicates" in report:
        parts.append(_format_section("Near-duplicates", _near_duplicate_rows(report["near_duplicates"])))
    if report["unreadable"]:
        parts.append(_format_section("Files with unreadable parts", dict.fromkeys(report["unreadable"], "")))
    return "\n\n".join(parts)


def _format_section(title: str, rows: Mapping[str, object]) -> str:
    width = max(map(len, rows))
    lines = [f"  {label:{width}}  {_format_value(value)}".rstrip() for label, value in rows.items()]
    return "\n".join([title, *lines])


def _class_rows(classes: Report | None) -> dict[str, object]:
    if classes is None:
        return {"no classes": ""}
    rows: dict[str, object] = {"classes": classes["classes"]}
    if classes["median"] is not None:
        rows |= {
            "fewest samples": _format_extreme(classes["fewest"]),
            "median": classes["median"],
            "most samples": _format_extreme(classes["most"]),
            "most / fewest": classes["imbalance"],
        }
    missing = classes["without_samples"]
    return rows | {"without samples": f"{len(missing):,} ({_format_names(missing)})" if missing else "none"}


def _format_extreme(extreme: Report) -> str:
    return f"{extreme['samples']:,} ({_format_names(extreme['names'], extreme['classes'])})"


def _quantile_rows(report: Report) -> dict[str, object]:
    """Return a row of column headings, and one for each distribution."""
    headings = [f"{percent}%" for percent in QUANTILES]
    distributions = {
        "map maximum": report["maps"]["map_max"],
        "gaze points": report["gaze"]["per_image"],
        "width": report["images"]["width"],
        "height": report["images"]["height"],
    }
    cells = {label: [_format_value(values[name]) for name in headings] for label, values in distributions.items()}
    return {label: "".join(f"{cell:>11}" for cell in row) for label, row in {"": headings, **cells}.items()}


def _map_rows(maps: Report) -> dict[str, object]:
    rows: dict[str, object] = {
        "mean / maximum": maps["mean"],
        "area / frame": maps["area"],
        "in the central third": f"{_format_value(maps['central_third_percent'])} % of the mass (uniform: 11.1 %)",
    }
    for index, cells in enumerate(maps["grid_percent"] or []):
        label = "mean map, % of the mass" if index == 0 else " " * index  # labels are keys, so each must be unique
        rows[label] = "".join(f"{cell:6.2f}" for cell in cells)
    return rows


def _gaze_rows(gaze: Report) -> dict[str, object]:
    return {
        "points": gaze["points"],
        "mean per image": gaze["per_image"]["mean"],
        "share of images without points": gaze["share_without"],
        f"share of images with the maximum number, {gaze['cap']:,}": gaze["share_at_cap"],
        "mean strength": gaze["mean_strength"],
        "mean x, y": _format_pair(gaze["mean_position"]),
        "standard deviation of x, y": _format_pair(gaze["spread"]),
    }


def _image_rows(images: Report) -> dict[str, object]:
    formats = ", ".join(f"{count:,} {name}" for name, count in images["reencoded"].items())
    return {"not upright (EXIF orientation)": images["turned"], "re-encoded": formats or "none"}


def _duplicate_rows(duplicates: Report) -> dict[str, object]:
    rows: dict[str, object] = {
        "groups of equal images": duplicates["groups"],
        "surplus images": duplicates["surplus"],
        "groups across classes": duplicates["groups_across_classes"],
        "images in groups across classes": duplicates["images_across_classes"],
    }
    for index, group in enumerate(duplicates["largest"]):
        label = "largest groups" if index == 0 else " " * index
        rows[label] = f"{group['images']:,} times: {_format_names(group['sources'], group['images'])}"
    return rows


def _near_duplicate_rows(found: Report) -> dict[str, object]:
    against = f" with {found['compared_with']:,} of {found['against']}" if found["against"] else ""
    files = {name: found[name] for name in ("page", "csv") if found[name]}
    return {
        "images compared": f"{found['compared']:,}{against}",
        "groups": found["groups"],
        "images in groups": found["images"],
        "groups across classes": found["groups_across_classes"],
        "different bits at most": found["max_distance"],
        "confirmed by pixels": "yes" if found["confirmed_by_pixels"] else "no",
        **files,
    }


def _format_pair(values: list[float] | None) -> str:
    return ", ".join(map(_format_value, values)) if values else "-"


def _format_value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _format_names(names: Iterable[str], total: int | None = None) -> str:
    """Join names of folders or files, with control characters escaped so that they cannot act on a terminal.

    `total` is the number of all names, if `names` holds only the first of them.
    """
    escaped = [json.dumps(name, ensure_ascii=False)[1:-1] for name in names]
    return join_names(escaped, MAX_NAMES_PER_LINE, total)
