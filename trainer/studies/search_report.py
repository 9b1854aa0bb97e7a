"""The results of a search: its trials as CSV and JSON, a plot of the accuracy over both weights, and what they show."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation
from scipy.spatial import Delaunay, QhullError

from common.text import join_names, pluralize
from trainer.studies.search import Trial

JSON, CSV, PLOT, MARKDOWN = "trials.json", "trials.csv", "surface.png", "trials.md"
CONTOUR_LEVELS = 12


def save_trials(trials: Sequence[Trial], folder: str) -> str:
    """Write the trials, best first, as JSON, CSV and a plot to a folder; return sentences about the best one.

    They are also written, to trials.md.
    """
    path = Path(folder)
    content = [asdict(trial) | {"ci95": trial.interval()} for trial in trials]
    (path / JSON).write_text(json.dumps(content, indent=1) + "\n")
    with (path / CSV).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        columns = ["kld_weight", "nss_weight", "held_out_accuracy", "epochs", "stopped", "ci95_low", "ci95_high"]
        writer.writerow(columns)
        for trial in trials:
            final = f"{trial.accuracies[-1]:.6f}" if trial.accuracies else ""
            bounds = [f"{bound:.6f}" for bound in trial.interval() or ()] or ["", ""]
            writer.writerow([trial.kld_weight, trial.nss_weight, final, len(trial.accuracies), trial.stopped, *bounds])
    draw_surface([trial for trial in trials if trial.accuracies], str(path / PLOT))
    text = f"{describe_best(trials)}; see {path / CSV} and {path / PLOT}\n{describe_uncertainty(trials)}"
    (path / MARKDOWN).write_text(f"{text}\n")
    return text


def describe_best(trials: Sequence[Trial]) -> str:
    """Return the weights and the accuracy of the best of the trials, the best first, with its interval if known."""
    best, interval = trials[0], trials[0].interval()
    bounds = f" (95 % interval {interval[0]:.2%} to {interval[1]:.2%})" if interval else ""
    return (
        f"best of {pluralize(len(trials), 'trial')}: --kld-weight {best.kld_weight} --nss-weight {best.nss_weight}, "
        f"accuracy {best.accuracies[-1]:.2%}{bounds} on the held-out images"
    )


def describe_uncertainty(trials: Sequence[Trial]) -> str:
    """Return sentences on which other trials may be as good as the best, which is first, and why its figure is high."""
    interval = trials[0].interval()
    sentences = []
    if interval is not None:
        close = [trial for trial in trials[1:] if trial.accuracies and trial.accuracies[-1] >= interval[0]]
        weights = [f"{trial.kld_weight} and {trial.nss_weight}" for trial in close]
        listed = f" ({join_names(weights)})" if close else ""
        sentences.append(
            f"{len(close)} of the {len(trials) - 1} other trials lie within the best one's interval{listed}. The "
            "interval covers the choice of the held-out images, not the random seed."
        )
    sentences.append(
        "The highest of many accuracies is optimistic, because it was selected on the images that it is measured on: "
        "train with the weights found, and measure on images that neither training nor search used."
    )
    return " ".join(sentences)


def draw_surface(trials: Sequence[Trial], path: str) -> None:
    """Draw the final accuracy of each trial as a color over both weights; save the plot as PNG.

    Contours interpolate the trials that were not stopped early, if there are three or more that are not on a line.
    `trials` are in the order of `run_search`, the best first.
    """
    figure = Figure((7, 5.5), layout="constrained")
    axes = figure.subplots()
    accuracies = [_final_percent(trial) for trial in trials]
    low, high = min(accuracies), max(accuracies)
    colors: dict[str, Any] = {"vmin": low, "vmax": max(high, low + 1e-9), "cmap": "viridis"}
    _draw_contours(axes, [trial for trial in trials if not trial.stopped], colors)
    for stopped, marker, label in ((False, "o", "finished"), (True, "v", "stopped early")):
        group = [trial for trial in trials if trial.stopped is stopped]
        points = axes.scatter(
            [trial.kld_weight for trial in group],
            [trial.nss_weight for trial in group],
            c=[_final_percent(trial) for trial in group],
            marker=marker,
            edgecolors="black",
            label=label,
            **colors,
        )
    best = trials[0]
    axes.plot(best.kld_weight, best.nss_weight, "*", color="red", markersize=16, fillstyle="none", label="best")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("lambda (weight of KLD)")
    axes.set_ylabel("beta (weight of NSS)")
    axes.legend(fontsize="small")
    figure.colorbar(points, label="held-out top-1 of the probe (%)")
    figure.savefig(path, dpi=120)


def _draw_contours(axes: Axes, trials: Sequence[Trial], colors: dict[str, Any]) -> None:
    """Interpolate the accuracy between trials on logarithmic axes; do nothing for trials that do not span an area."""
    weights = np.array([[trial.kld_weight, trial.nss_weight] for trial in trials]).reshape(-1, 2)
    try:
        triangles = Delaunay(np.log(weights)).simplices
    except (QhullError, ValueError):  # fewer than three trials, or all on a line
        return
    accuracies = [_final_percent(trial) for trial in trials]
    triangulation = Triangulation(weights[:, 0], weights[:, 1], triangles)
    axes.tricontourf(triangulation, accuracies, CONTOUR_LEVELS, alpha=0.5, **colors)


def _final_percent(trial: Trial) -> float:
    return 100 * trial.accuracies[-1]
