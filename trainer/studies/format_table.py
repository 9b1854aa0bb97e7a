"""Table 1 as Markdown, CSV and a plot, beside the paper's figures."""

import csv
import io
from collections.abc import Sequence
from statistics import mean

from common.intervals import format_mean, standard_error
from common.storage.run_folder import RunFolder
from trainer.studies.config import TableSettings
from trainer.studies.rows import TableRow

MARKDOWN, CSV, PLOT = "table.md", "table.csv", "table.png"


def save_table(rows: Sequence[TableRow], settings: TableSettings) -> str:
    """Write all three into the study's folder; returns the Markdown. Raises UserError."""
    folder = RunFolder(settings.folder())
    folder.path.mkdir(parents=True, exist_ok=True)
    text = f"{format_markdown(rows)}\n{measured(settings)}\n"
    folder.write(MARKDOWN, text)
    folder.write(CSV, format_csv(rows))
    draw_table(rows, str(folder.path / PLOT))
    folder.upload(PLOT)
    return text


def measured(settings: TableSettings) -> str:
    """What the accuracies are."""
    if settings.val is not None:
        return f"Top-1 of the probe or classifier after the last epoch, on 87.5 % centre crops of {settings.val}."
    return (
        "Top-1 of the probe or classifier on augmented images of the last epoch of training, not on validation images "
        "(--val): supervised rows classify what they have learnt by heart."
    )


def format_markdown(rows: Sequence[TableRow]) -> str:
    """A table of Markdown."""
    lines = ["| recipe | backbone | seeds | top-1 (%) | paper (%) |", "|---|---|--:|--:|--:|"]
    for row in rows:
        ours = format_mean(mean(row.accuracies), standard_error(row.accuracies))
        paper = format_mean(*row.paper) if row.paper else ""
        lines.append(f"| {row.recipe} | {row.backbone} | {len(row.accuracies)} | {ours} | {paper} |")
    return "\n".join(lines) + "\n"


def format_csv(rows: Sequence[TableRow]) -> str:
    """A line for each recipe, accuracies of the seeds separated by spaces."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["recipe", "backbone", "seeds", "mean", "standard_error", "paper", "paper_error", "accuracies"])
    for row in rows:
        paper, error = row.paper or (None, None)
        figures = [mean(row.accuracies), standard_error(row.accuracies), paper, error]
        each = " ".join(f"{value:.4f}" for value in row.accuracies)
        writer.writerow(
            [row.recipe, row.backbone, len(row.accuracies)]
            + ["" if figure is None else f"{figure:.4f}" for figure in figures]
            + [each]
        )
    return file.getvalue()


def draw_table(rows: Sequence[TableRow], path: str) -> None:
    """Means with standard errors and the single seeds, beside the paper's."""
    from matplotlib.figure import Figure  # a second to import

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
