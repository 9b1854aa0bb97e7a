"""The results of a search: its trials as CSV and JSON, and a plot of the accuracy over both weights."""

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

from common.text import pluralize
from trainer.studies.search import Trial

JSON, CSV, PLOT = "trials.json", "trials.csv", "surface.png"
CONTOUR_LEVELS = 12


def save_trials(trials: Sequence[Trial], folder: str) -> str:
    """Write the trials, best first, as JSON, CSV and a plot to a folder; return a sentence about the best one."""
    path = Path(folder)
    (path / JSON).write_text(json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
    with (path / CSV).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kld_weight", "nss_weight", "held_out_accuracy", "epochs", "stopped"])
        for trial in trials:
            final = f"{trial.accuracies[-1]:.6f}" if trial.accuracies else ""
            writer.writerow([trial.kld_weight, trial.nss_weight, final, len(trial.accuracies), trial.stopped])
    draw_surface([trial for trial in trials if trial.accuracies], str(path / PLOT))
    best = trials[0]
    return (
        f"best of {pluralize(len(trials), 'trial')}: --kld-weight {best.kld_weight} --nss-weight {best.nss_weight}, "
        f"accuracy {best.accuracies[-1]:.2%} on the held-out images; see {path / CSV} and {path / PLOT}"
    )


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
