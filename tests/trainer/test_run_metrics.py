"""Tests of the metrics of a run; tests/integration/test_cluster.py reads them from a cluster."""

import pytest
import ray

from trainer.run_metrics import METRIC_DESCRIPTIONS, RunMetrics, export_metrics


def test_run_outside_of_a_cluster_exports_nothing() -> None:
    assert not ray.is_initialized()
    assert export_metrics("runs/a", 10) is None


def test_exports_the_step_and_those_of_its_figures_that_have_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    exported: dict[str, tuple[float, dict[str, str]]] = {}

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description == METRIC_DESCRIPTIONS[name]
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            exported[self.name] = (value, tags)

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    RunMetrics("runs/a", 10).update(3, {"loss": 2.5, "kld": 1.0, "images_per_second": 40.0})
    tags = {"run": "runs/a"}
    assert exported == {
        "trainer_steps_planned": (10, tags),
        "trainer_step": (3, tags),
        "trainer_loss": (2.5, tags),
        "trainer_images_per_second": (40.0, tags),
    }
