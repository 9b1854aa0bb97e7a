"""Table 1 as Markdown, CSV, JSON and as a plot: next to the figures of the paper, and compared with a baseline."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.intervals import format_mean, standard_error
from common.storage.run_folder import RunFolder
from common.text import join_names, pluralize
from trainer.studies.config import TableSettings
from trainer.studies.paired import Comparison, compare_recipes
from trainer.studies.paired_report import format_comparisons
from trainer.studies.table import CSV, JSON, MARKDOWN, PLOT, TableRow, list_pairs

COMPARED = ("baseline", "difference", "ci95_low", "ci95_high", "p", "p_holm", "seeds_compared", "seeds_needed")


def save_table(rows: Sequence[TableRow], settings: TableSettings) -> str:
    """Write the table in all formats to the study's folder, and return its Markdown. Raises UserError."""
    folder = RunFolder(settings.study_folder())
    folder.path.mkdir(parents=True, exist_ok=True)
    comparisons = compare_rows(rows, settings)
    unreadable = {name: reason for row in rows for name, reason in row.unreadable.items()}
    note = describe_accuracy(settings, unreadable)
    text = "\n".join([format_markdown(rows), note, *([""] if comparisons else []), format_comparisons(comparisons)])
    folder.write(CSV, format_csv(rows, comparisons))
    folder.write_json(
        JSON, {"rows": [_row_to_json(row) for row in rows], "comparisons": list(map(asdict, comparisons))}
    )
    draw_table(rows, str(folder.path / PLOT), comparisons)
    folder.upload(PLOT)
    folder.write(MARKDOWN, text)
    return text


def compare_rows(rows: Sequence[TableRow], settings: TableSettings) -> list[Comparison]:
    """Compare the rows' accuracies with those of their baselines, by seed. Raises UserError for an unknown baseline."""
    accuracies = {row.recipe: dict(enumerate(row.accuracies)) for row in rows}
    return compare_recipes(accuracies, list_pairs(settings, list(accuracies)))


def describe_accuracy(settings: TableSettings, unreadable: Mapping[str, str]) -> str:
    """Return the note below the table: on which images the accuracies were measured, and which cannot be read."""
    if settings.val is not None:
        note = (
            f"Top-1 accuracy of the probe or classifier after the last epoch, on 87.5 % center crops of {settings.val}."
        )
        if unreadable:
            listed = join_names([f"{name} ({reason})" for name, reason in unreadable.items()])
            note += f" {pluralize(len(unreadable), 'unreadable image')} excluded: {listed}."
        return note
    return (
        "Top-1 accuracy of the probe or classifier on the augmented training images of the last epoch. These are not "
        "validation images (see --val): supervised recipes have memorized them."
    )


def format_markdown(rows: Sequence[TableRow]) -> str:
    """Return the table in Markdown: mean and standard error of each recipe, in percent, and the paper's."""
    lines = ["| recipe | backbone | seeds | top-1 (%) | paper (%) |", "|---|---|--:|--:|--:|"]
    for row in rows:
        accuracy = format_mean(mean(row.accuracies), standard_error(row.accuracies))
        paper = format_mean(*row.paper) if row.paper else ""
        lines.append(f"| {row.recipe} | {row.backbone} | {len(row.accuracies)} | {accuracy} | {paper} |")
    return "\n".join(lines) + "\n"


def format_csv(rows: Sequence[TableRow], comparisons: Sequence[Comparison] = ()) -> str:
    """Return the table as CSV.

    The column `accuracies` holds those of the single runs, separated by spaces. If there are comparisons, the columns
    after it hold that of the row with its baseline, and are empty for baselines.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = ["recipe", "backbone", "seeds", "mean", "standard_error", "paper", "paper_error", "accuracies"]
    writer.writerow([*columns, *(COMPARED if comparisons else ())])
    by_recipe = {comparison.recipe: comparison for comparison in comparisons}
    for row in rows:
        paper, paper_error = row.paper or (None, None)
        figures = [mean(row.accuracies), standard_error(row.accuracies), paper, paper_error]
        writer.writerow(
            [row.recipe, row.backbone, len(row.accuracies)]
            + ["" if figure is None else f"{figure:.4f}" for figure in figures]
            + [" ".join(f"{accuracy:.4f}" for accuracy in row.accuracies)]
            + (_comparison_cells(by_recipe.get(row.recipe)) if comparisons else [])
        )
    return file.getvalue()


def _comparison_cells(comparison: Comparison | None) -> list[str]:
    """Return the cells of the columns `COMPARED`."""
    if comparison is None:
        return [""] * len(COMPARED)
    low, high = comparison.ci95 or (None, None)
    figures = (comparison.difference, low, high, comparison.p, comparison.p_holm)
    cells = ["" if figure is None else f"{figure:.6g}" for figure in figures]
    return [comparison.baseline, *cells, str(len(comparison.seeds)), str(comparison.needed or "")]


def _row_to_json(row: TableRow) -> dict[str, Any]:
    paper, paper_error = row.paper or (None, None)
    return {
        "recipe": row.recipe,
        "backbone": row.backbone,
        "accuracies": row.accuracies,
        "mean": mean(row.accuracies),
        "standard_error": standard_error(row.accuracies),
        "paper": paper,
        "paper_error": paper_error,
    }


def draw_table(rows: Sequence[TableRow], path: str, comparisons: Sequence[Comparison] = ()) -> None:
    """Draw the mean, standard error and single runs of each row, and the paper's mean; save the plot as PNG.

    If there are comparisons, a second panel shows the difference of each row to its baseline, with its 95 % interval.
    """
    heights = range(len(rows))[::-1]
    figure = Figure((12 if comparisons else 8, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes, *further = figure.subplots(1, 2 if comparisons else 1, sharey=True, squeeze=False)[0]
    if further:
        _draw_differences(
            further[0], {row.recipe: height for height, row in zip(heights, rows, strict=True)}, comparisons
        )
    for height, row in zip(heights, rows, strict=True):
        error = standard_error(row.accuracies) or 0.0
        axes.errorbar(mean(row.accuracies), height, xerr=error, fmt="o", color="C0", capsize=4)
        axes.plot(row.accuracies, [height] * len(row.accuracies), "|", color="C0", alpha=0.5)
        if row.paper:
            axes.plot(row.paper[0], height, "D", color="C1", fillstyle="none")
    axes.plot([], [], "o", color="C0", label="mean ± standard error")
    axes.plot([], [], "D", color="C1", fillstyle="none", label="paper (ImageNet)")
    axes.set_yticks(list(heights), [f"{row.recipe} ({row.backbone})" for row in rows])
    axes.set_xlabel("top-1 (%)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _draw_differences(axes: Axes, heights: Mapping[str, int], comparisons: Sequence[Comparison]) -> None:
    axes.axvline(0, color="gray", linewidth=1)
    for comparison in comparisons:
        if comparison.difference is not None:
            low, high = comparison.ci95 or (comparison.difference, comparison.difference)
            errors = [[comparison.difference - low], [high - comparison.difference]]
            axes.errorbar(
                comparison.difference, heights[comparison.recipe], xerr=errors, fmt="o", color="C0", capsize=4
            )
    axes.set_xlabel("difference to the baseline by seed, 95 % interval (points)")
    axes.grid(axis="x", alpha=0.3)
