"""Prometheus metrics of a training run. Ray exports them and adds the prefix `ray_` to each name."""

import sys
from collections.abc import Mapping

METRIC_DESCRIPTIONS = {
    "trainer_steps_planned": "steps of the run",
    "trainer_step": "steps that are done",
    "trainer_loss": "loss of the last step",
    "trainer_probe_accuracy": "accuracy of the concurrent probe in the last step, 0 to 1",
    "trainer_images_per_second": "images per second in the last step, all workers together",
    "trainer_waited": "fraction of the last step that rank 0 waited for its batch",
    "trainer_memory_gb": "peak memory of rank 0 in GB: of its GPU, or of its process without one",
}


class RunMetrics:
    """Gauges of a run, to be updated in a process of a Ray cluster."""

    def __init__(self, run: str, steps: int) -> None:
        """Export the number of planned steps. `run` is the location of the run's folder."""
        from ray.util.metrics import Gauge

        self._gauges = {name: Gauge(name, text, tag_keys=("run",)) for name, text in METRIC_DESCRIPTIONS.items()}
        self._tags = {"run": run}
        self._set("steps_planned", steps)

    def update(self, step: int, figures: Mapping[str, float]) -> None:
        """Export a step; of its figures, those that METRIC_DESCRIPTIONS names."""
        self._set("step", step)
        for name, value in figures.items():
            if f"trainer_{name}" in self._gauges:
                self._set(name, value)

    def _set(self, name: str, value: float) -> None:
        self._gauges[f"trainer_{name}"].set(value, tags=self._tags)


def export_metrics(run: str, steps: int) -> RunMetrics | None:
    """Return the metrics of a run if this process belongs to a Ray cluster, else None."""
    ray = sys.modules.get("ray")  # a process that has not imported Ray belongs to no cluster
    return RunMetrics(run, steps) if ray is not None and ray.is_initialized() else None
