"""Table 1 as Markdown, as CSV and as a plot, next to the figures of the paper."""

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.figure import Figure

from common.intervals import format_mean, standard_error
from common.storage.run_folder import RunFolder
from common.text import join_names, pluralize
from trainer.studies.config import TableSettings
from trainer.studies.table import CSV, MARKDOWN, PLOT, TableRow


def save_table(rows: Sequence[TableRow], settings: TableSettings) -> str:
    """Write the table in all three formats to the study's folder, and return its Markdown. Raises UserError."""
    folder = RunFolder(settings.study_folder())
    folder.path.mkdir(parents=True, exist_ok=True)
    unreadable = {name: reason for row in rows for name, reason in row.unreadable.items()}
    text = f"{format_markdown(rows)}\n{describe_accuracy(settings, unreadable)}\n"
    folder.write(MARKDOWN, text)
    folder.write(CSV, format_csv(rows))
    draw_table(rows, str(folder.path / PLOT))
    folder.upload(PLOT)
    return text


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


def format_csv(rows: Sequence[TableRow]) -> str:
    """Return the table as CSV; the last column holds the accuracies of the single runs, separated by spaces."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["recipe", "backbone", "seeds", "mean", "standard_error", "paper", "paper_error", "accuracies"])
    for row in rows:
        paper, paper_error = row.paper or (None, None)
        figures = [mean(row.accuracies), standard_error(row.accuracies), paper, paper_error]
        writer.writerow(
            [row.recipe, row.backbone, len(row.accuracies)]
            + ["" if figure is None else f"{figure:.4f}" for figure in figures]
            + [" ".join(f"{accuracy:.4f}" for accuracy in row.accuracies)]
        )
    return file.getvalue()


def draw_table(rows: Sequence[TableRow], path: str) -> None:
    """Draw the mean, standard error and single runs of each row, and the paper's mean; save the plot as PNG."""
    figure = Figure((8, 1.2 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    heights = range(len(rows))[::-1]
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
