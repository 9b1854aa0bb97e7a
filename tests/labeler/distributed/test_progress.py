import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.storage import LocalStorage
from labeler.distributed import progress
from labeler.distributed.progress import ProgressMonitor
from tests.support.jobs import photographs, planned, shard_labeler


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[ProgressMonitor]:
    """Monitor of a job with two shards of two images, the first of which an earlier run has committed."""
    plan = planned(photographs(tmp_path / "images", 4), tmp_path / "out", samples_per_shard=2)
    record = shard_labeler(plan, tmp_path / "out").label(0)
    monitor = ProgressMonitor(LocalStorage(tmp_path / "out"), [plan], {0: record})
    yield monitor
    if monitor.bar is not None:
        monitor.bar.close()


def read_progress_json(monitor: ProgressMonitor) -> dict[str, Any]:
    return json.loads(monitor.storage.read("progress.json"))


def test_progress_includes_earlier_runs_and_adds_up_blocks(monitor: ProgressMonitor) -> None:
    with monitor.watch(lambda: (1, 0)):
        pass
    with monitor.watch(lambda: (1, 1)):
        pass
    monitor.add_shard()
    monitor.close("complete", {"images": 2})
    content = read_progress_json(monitor)
    assert (content["state"], content["report"]) == ("complete", {"images": 2})
    assert (content["shards"], content["shards_planned"]) == (2, 2)
    assert (content["images"], content["images_planned"], content["failed"]) == (4, 4, 1)


def test_state_of_a_running_job_is_labelling(monitor: ProgressMonitor) -> None:
    with monitor.watch(lambda: (0, 0)):
        pass
    assert read_progress_json(monitor)["state"] == "labelling"


def test_run_that_did_nothing_writes_nothing(monitor: ProgressMonitor) -> None:
    monitor.close("complete", {})
    assert not monitor.storage.exists("progress.json")


def test_stalled_run_is_reported(
    monitor: ProgressMonitor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "STALL_SECONDS", 0.0)
    monitor.stall_limit = 0.0
    with monitor.watch(lambda: (0, 0)):
        pass
    assert "no image was finished for 0 s" in capsys.readouterr().err
