"""What a search found: its trials as CSV and JSON, and a picture of the surface over lambda and beta."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.studies.run_search import Trial

JSON, CSV, PICTURE = "trials.json", "trials.csv", "surface.png"


def save_trials(trials: Sequence[Trial], folder: str) -> str:
    """Write all three into the search's folder; returns what was best in one sentence. `trials` are best first."""
    place = Path(folder)
    (place / JSON).write_text(json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
    with (place / CSV).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kld_weight", "nss_weight", "held_out_accuracy", "epochs", "stopped"])
        for trial in trials:
            final = f"{trial.accuracies[-1]:.6f}" if trial.accuracies else ""
            writer.writerow([trial.kld_weight, trial.nss_weight, final, len(trial.accuracies), trial.stopped])
    draw_surface([trial for trial in trials if trial.accuracies], str(place / PICTURE))
    best = trials[0]
    return (
        f"best of {len(trials)} trials: --kld-weight {best.kld_weight} --nss-weight {best.nss_weight}, right on "
        f"{best.accuracies[-1]:.2%} of the held-out images; {place / CSV}, {place / PICTURE}"
    )


def draw_surface(trials: Sequence[Trial], path: str) -> None:
    """Accuracy by colour over both weights; contours over the trials that ran to the end, if they span an area."""
    import numpy as np
    from matplotlib.figure import Figure  # a second to import
    from matplotlib.tri import Triangulation
    from scipy.spatial import Delaunay, QhullError

    figure = Figure((7, 5.5), layout="constrained")
    axes = figure.subplots()
    x, y = ([getattr(trial, name) for trial in trials] for name in ("kld_weight", "nss_weight"))
    values = [100 * trial.accuracies[-1] for trial in trials]
    whole = [number for number, trial in enumerate(trials) if not trial.stopped]
    scale: dict[str, Any] = {"vmin": min(values), "vmax": max(max(values), min(values) + 1e-9), "cmap": "viridis"}
    try:
        logarithms = np.log([[x[number], y[number]] for number in whole]).reshape(-1, 2)
        triangles = Delaunay(logarithms).simplices
        corners = np.exp(logarithms).T
        axes.tricontourf(
            Triangulation(corners[0], corners[1], triangles), [values[n] for n in whole], 12, alpha=0.5, **scale
        )
    except (QhullError, ValueError):
        pass  # fewer than three trials ran to the end, or all of them lie on a line
    for stopped, marker, name in ((False, "o", "whole"), (True, "v", "stopped early")):
        chosen = [number for number, trial in enumerate(trials) if trial.stopped is stopped]
        across, up, colours = ([row[number] for number in chosen] for row in (x, y, values))
        shown = axes.scatter(across, up, c=colours, marker=marker, edgecolors="black", label=name, **scale)
    axes.plot(x[0], y[0], "*", color="red", markersize=16, fillstyle="none", label="best")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("lambda (KLD)")
    axes.set_ylabel("beta (NSS)")
    axes.legend(fontsize="small")
    figure.colorbar(shown, label="held-out top-1 of the probe (%)")
    figure.savefig(path, dpi=120)
