"""The main figures at a glance: models that differ in nothing but their seed as mean and standard error."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from common import page
from common.intervals import format_mean, standard_error
from common.page import Html
from trainer.evaluate.suites.base import Row

# where a figure lies in a model's results; CIFAR-10's precision at 1 likewise
FIGURES: dict[str, tuple[str | int, ...]] = {
    "concurrent_top1": ("linear", "concurrent", "top1"),
    "offline_top1": ("linear", "offline", "top1"),
    "imagenet_c_mean": ("imagenet-c", "mean"),
    "imagenet_precision_at_1": ("retrieval", "imagenet", "clean", "precision", 0),
    "cifar10_precision_at_1": ("retrieval", "cifar10", "clean", "precision", 0),
    "cc_with_people": ("alignment", "", "cc"),  # of the model of this name
}
TITLES = {
    "concurrent_top1": "top-1, concurrent probe (%)",
    "offline_top1": "top-1, offline probe (%)",
    "imagenet_c_mean": "corrupted, mean top-1 (%)",
    "imagenet_precision_at_1": "retrieval, precision at 1 (%)",
    "cifar10_precision_at_1": "CIFAR-10 retrieval, precision at 1 (%)",
    "cc_with_people": "CC with people",
}


def summarize_models(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """A row for each kind of model, of what results.json holds: how many, and each figure's mean and standard error.

    A figure that a model lacks is None, as is the standard error of a single model.
    """
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name, found in results.items():
        trained = found["checkpoint"]["trained"]
        own = (trained["settings"], trained["step"]) if trained["recipe"] else (name,)
        kinds.setdefault((trained["recipe"], *own, found["checkpoint"]["image_size"]), []).append(name)
    several = Counter(recipe for (recipe, *_), names in kinds.items() if len(names) > 1)
    rows = []
    for (recipe, *_), names in kinds.items():
        only = len(names) > 1 and several[recipe] == 1  # runs of this recipe that others are not taken for
        row: Row = {"model": recipe if only else ", ".join(names), "runs": len(names)}
        for figure, path in FIGURES.items():
            values = [value for name in names if (value := _found(results[name], path, name)) is not None]
            row |= {figure: mean(values) if values else None, f"{figure}_se": standard_error(values)}
        rows.append(row)
    return rows


def section(rows: Sequence[Row]) -> Html:
    """The rows as a table, with those figures that some model has."""
    figures = [figure for figure in FIGURES if any(row[figure] is not None for row in rows)]
    cells = [(row["model"], row["runs"], *(_spelled(figure, row) for figure in figures)) for row in rows]
    several = any(row["runs"] > 1 for row in rows)
    return page.section(
        "At a glance",
        *([page.paragraph("Mean ± standard error over runs with different seeds.")] if several else []),
        page.table(["model", "runs", *(TITLES[figure] for figure in figures)], cells),
    )


def _found(result: Any, path: Sequence[str | int], name: str) -> float | None:
    for step in path:
        key = step if step != "" else name
        if isinstance(result, Mapping) and key not in result:
            return None
        result = result[key]
    return None if result is None else float(result)


def _spelled(figure: str, row: Row) -> str:
    value, error = row[figure], row[f"{figure}_se"]
    if value is None:
        return ""
    if figure == "cc_with_people":
        return format_mean(value, error, digits=3)
    return format_mean(100 * value, None if error is None else 100 * error)
