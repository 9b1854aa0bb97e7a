import pickle
from types import SimpleNamespace

import pytest

from common.manifest import LabelConfig
from labeler.distributed.worker import LabelWorker, ProgressCounter, WorkerSpec


def test_images_of_all_passes_are_added_up_and_a_restarted_shard_counts_once() -> None:
    counter = ProgressCounter()
    counter.start_shard(0)
    counter.report_images(0, 100, 2)
    counter.start_pass()
    counter.start_shard(1)
    counter.report_images(1, 50, 1)
    assert counter.count_images() == (150, 3)
    counter.start_shard(0)
    assert counter.count_images() == (50, 1)


def test_started_shards_are_those_of_the_current_pass() -> None:
    counter = ProgressCounter()
    counter.start_shard(0)
    counter.start_pass()
    counter.start_shard(3)
    assert counter.started_shards() == {3}


def test_starts_are_counted_until_a_shard_has_ended() -> None:
    counter = ProgressCounter()
    assert [counter.start_shard(0), counter.start_shard(1)] == [1, 2]
    counter.start_pass()
    assert counter.start_shard(0) == 3
    counter.end_shard()
    assert counter.start_shard(1) == 0


@pytest.mark.parametrize(
    ("threads", "gpus", "machine", "expected"),
    [
        (None, 0, 0, 2),
        (None, 0.25, 1, 3),
        (None, 1, 1, 12),
        (None, 0.25, 4, 2),
        (None, 1, 4, 3),
        (None, 0.1, 1, 2),
        (5, 0.25, 1, 5),
    ],
)
def test_threads_are_counted_on_the_machine_of_the_worker(
    threads: int | None, gpus: float, machine: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labeler.distributed.worker.available_cores", lambda: 1)  # of the machine that drives the job
    sent = pickle.dumps(WorkerSpec(None, "output", None, threads, gpus, max_starts=4, batch_timeout=600))
    monkeypatch.setattr("labeler.distributed.worker.available_cores", lambda: 12)
    assert pickle.loads(sent).count_threads(machine) == expected


@pytest.mark.parametrize(("batch_size", "expected"), [(64, "64 images"), (1, "1 image"), (None, "32 images")])
def test_advice_on_memory_names_the_batch_size_and_what_to_lower(batch_size: int | None, expected: str) -> None:
    worker = LabelWorker([None], None)
    worker.__dict__["_spec"] = SimpleNamespace(plan=SimpleNamespace(config=LabelConfig(batch_size=batch_size)))
    advice = worker._advise_on_memory()
    assert f"a batch of {expected} for each worker" in advice
    assert "--gpus-per-worker" in advice
    assert "--batch-size" in advice
