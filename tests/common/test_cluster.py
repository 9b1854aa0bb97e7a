import pytest
import ray

from common.cluster import join_ray, largest, most_workers
from common.errors import UserError


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there .*unset RAY_ADDRESS"),
        ("ray://127.0.0.1:1", "RAY_ADDRESS=ray://127.0.0.1:1: no Ray cluster answers there"),
        ("auto", "RAY_ADDRESS=auto: the Ray cluster cannot be joined: .*unset RAY_ADDRESS"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_of_at_once(monkeypatch, address, message):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_TMPDIR", "/nonexistent")  # where auto looks for a cluster
    with pytest.raises(UserError, match=message):
        join_ray(show_workers_output=False)


@pytest.mark.parametrize(
    ("gpus", "workers"),
    [
        (0, 10),  # a worker for each CPU
        (1, 3),
        (0.5, 6),
        (0.6, 3),  # the rest of a GPU is too small for another
        (2, 1),  # one of each machine does not make two
    ],
)
def test_a_worker_lies_on_one_machine_and_a_part_of_a_gpu_on_one_gpu(monkeypatch, gpus, workers):
    machines = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}, {"memory": 1e9}]
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])
    assert most_workers(gpus) == workers
    assert (largest("CPU"), largest("GPU")) == (8, 2)
