"""Headline figures of all models; runs that differ only in their seed become a mean with its standard error."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from common import page
from common.intervals import format_mean, standard_error
from common.page import Html
from trainer.evaluate.suite import MODEL, Headline, Row


def summarize_models(results: Mapping[str, Mapping[str, Any]], headlines: Mapping[Headline, str]) -> list[Row]:
    """Summarize results.json: one row per kind of model, that is, per group of runs that differ only in their seed.

    Args:
        results: content of results.json, by model.
        headlines: headline figures with the names of their suites.

    A row holds the name, the number of runs, and mean and standard error (`_se`) of each figure. A figure that no model
    of the group has is None, as is the standard error of a single run.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, result in results.items():
        trained = result["checkpoint"]["trained"]
        identity = (trained["settings"], trained["step"]) if trained["recipe"] else (name,)
        groups.setdefault((trained["recipe"], *identity, result["checkpoint"]["image_size"]), []).append(name)
    groups_of_several = Counter(recipe for (recipe, *_), names in groups.items() if len(names) > 1)
    rows = []
    for (recipe, *_), names in groups.items():
        recipe_is_unique = len(names) > 1 and groups_of_several[recipe] == 1
        row: Row = {"model": recipe if recipe_is_unique else ", ".join(names), "runs": len(names)}
        for headline, suite in headlines.items():
            values = [
                value for name in names if (value := _figure(results[name], suite, headline.path, name)) is not None
            ]
            row |= {headline.name: mean(values) if values else None, f"{headline.name}_se": standard_error(values)}
        rows.append(row)
    return rows


def section(headlines: Iterable[Headline], rows: Sequence[Row]) -> Html:
    """Show the rows as a table, with those figures that at least one model has."""
    shown = [headline for headline in headlines if any(row[headline.name] is not None for row in rows)]
    cells = [(row["model"], row["runs"], *(_format_figure(headline, row) for headline in shown)) for row in rows]
    has_several_runs = any(row["runs"] > 1 for row in rows)
    return page.section(
        "At a glance",
        *([page.paragraph("Mean ± standard error over runs with different seeds.")] if has_several_runs else []),
        page.table(["model", "runs", *(headline.title for headline in shown)], cells),
    )


def _figure(result: Any, suite: str, path: Sequence[str | int], model: str) -> float | None:
    """Follow a path into a model's results; None if the model lacks the figure."""
    for step in (suite, *path):
        key = model if step == MODEL else step
        if isinstance(result, Mapping) and key not in result:
            return None
        result = result[key]
    return None if result is None else float(result)


def _format_figure(headline: Headline, row: Row) -> str:
    value, error = row[headline.name], row[f"{headline.name}_se"]
    if value is None:
        return ""
    if not headline.percent:
        return format_mean(value, error, digits=3)
    return format_mean(100 * value, None if error is None else 100 * error)
