import os
import subprocess
import sys

import pytest
import ray

from common.cluster import cores_per_gpu, join_ray, max_per_machine, max_workers, worker_environment
from common.errors import UserError


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there .*unset RAY_ADDRESS"),
        ("ray://127.0.0.1:1", "RAY_ADDRESS=ray://127.0.0.1:1: no Ray cluster answers there"),
        ("auto", "RAY_ADDRESS=auto: the Ray cluster cannot be joined: .*unset RAY_ADDRESS"),
    ],
)
def test_absent_cluster_is_an_error_at_once(monkeypatch, address, message):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_TMPDIR", "/nonexistent")  # where Ray looks for a cluster if the address is "auto"
    with pytest.raises(UserError, match=message):
        join_ray(show_workers_output=False)


@pytest.mark.parametrize(
    ("gpus_per_worker", "workers"),
    [
        (0, 10),  # one worker per CPU
        (1, 3),
        (0.5, 6),
        (0.6, 3),  # the remaining 0.4 of a GPU is too small for another worker
        (2, 1),  # two GPUs of different machines are not enough
    ],
)
def test_workers_do_not_span_machines_nor_fractions_span_gpus(monkeypatch, gpus_per_worker, workers):
    machines = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 1.0}, {"memory": 1e9}]
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}])
    assert max_workers(gpus_per_worker) == workers
    assert (max_per_machine("CPU"), max_per_machine("GPU")) == (8, 2)


def test_gpu_head_without_cpus_for_workers_does_not_count(monkeypatch):
    machines = [{"GPU": 1.0, "CPU": 0.0}, {"GPU": 1.0}, {"CPU": 16.0, "GPU": 1.0}, {"CPU": 24.0, "GPU": 2.0}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": machine} for machine in machines])
    assert cores_per_gpu() == 12


def test_a_worker_of_several_cpus_multiplies_matrices_in_one_thread():
    code = "import numpy, threadpoolctl; print([pool['num_threads'] for pool in threadpoolctl.threadpool_info()])"
    environment = os.environ | {"OMP_NUM_THREADS": "4"} | worker_environment()  # Ray sets the number of CPUs
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout == "[1]\n"
