"""Checks of deploy/alerts.yaml: its metrics are exported, and its rules fire when they should (promtool)."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from labeler.distributed import metrics as labeler_metrics
from trainer import run_metrics

ROOT = Path(__file__).parents[2]
EXPORTED = labeler_metrics.METRIC_DESCRIPTIONS | run_metrics.METRIC_DESCRIPTIONS


@pytest.fixture
def manifest() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "deploy/alerts.yaml").read_text())


def rules(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]


def test_is_a_rule_of_the_prometheus_operator(manifest: dict[str, Any]) -> None:
    assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    names = [rule["alert"] for rule in rules(manifest)]
    assert len(set(names)) == len(names)
    for rule in rules(manifest):
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_uses_only_exported_metrics(manifest: dict[str, Any]) -> None:
    used = {name for rule in rules(manifest) for name in re.findall(r"\bray_((?:labeler|trainer)_\w+)", rule["expr"])}
    assert used
    assert used - set(EXPORTED) == set()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool (Debian package prometheus)")
def test_rules_fire_when_they_should(manifest: dict[str, Any], tmp_path: Path) -> None:
    plain = [{name: value for name, value in rule.items() if name != "annotations"} for rule in rules(manifest)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "alerts", "rules": plain}]}))
    shutil.copy(Path(__file__).with_name("alerts_test.yaml"), tmp_path)
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(manifest["spec"]))
    for command in (["check", "rules", "whole.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
