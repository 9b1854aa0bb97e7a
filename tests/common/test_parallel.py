import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.parallel import THREAD_VARIABLES, Decoders, available_cores, default_decoders, in_order, in_processes
from tests.support.data.pictures import write

WITH_DECODERS = """
import os, signal, time
from common.parallel import Decoders
signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes ignore the signal by default
with Decoders(2, processes=True).pool() as pool:
    print(*pool.map(os.getpgid, [0] * 2), os.getpgrp(), flush=True)
    {end}
"""


def test_in_order_yields_results_in_item_order() -> None:
    def delay_even(item: int) -> int:
        time.sleep(0.01 if item % 2 == 0 else 0)
        return item

    with ThreadPoolExecutor(4) as pool:
        assert list(in_order(pool, delay_even, range(30), ahead=6)) == list(range(30))


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_in_order_submits_at_most_ahead_items(ahead: int) -> None:
    started, taken, max_ahead = 0, 0, 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal started
        with lock:
            started += 1
        return item

    def items() -> Iterator[int]:
        nonlocal max_ahead
        for item in range(40):
            yield item
            max_ahead = max(max_ahead, item + 1 - taken)

    with ThreadPoolExecutor(4) as pool:
        for _ in in_order(pool, work, items(), ahead):
            taken += 1
            time.sleep(0.002)
            assert started - taken <= ahead
    assert (taken, started) == (40, 40)
    assert max_ahead <= ahead


def test_in_order_raises_exceptions_of_the_function() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, work, range(9), ahead=4)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)


def test_in_order_without_items_yields_nothing() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(in_order(pool, str, [], ahead=3)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_in_processes_yields_results_in_argument_order(processes: int) -> None:
    results = in_processes(pow, [2, 3, 4], [1, 2, 3], processes=processes, unit="powers", start=threading.Event)
    assert list(results) == [2, 9, 64]
    assert list(in_processes(str, [], processes=processes, unit="words")) == []


def fail_to_start() -> None:
    raise UserError("the store does not answer")


def end_this_process(number: int) -> None:
    os._exit(number)


@pytest.mark.parametrize("processes", [1, 2])
def test_start_of_a_process_may_fail_with_a_sentence(processes: int) -> None:
    with pytest.raises(UserError, match=r"^the store does not answer$"):
        list(in_processes(abs, [1, 2], processes=processes, unit="numbers", start=fail_to_start))


def test_process_that_dies_is_reported_with_a_sentence() -> None:
    with pytest.raises(UserError, match=r"^a process ended unexpectedly .* fewer --workers$"):
        list(in_processes(end_this_process, [9, 9], processes=2, unit="numbers"))


@pytest.mark.parametrize("processes", [False, True])
def test_decoders_are_threads_or_processes(processes: bool) -> None:
    with Decoders(2, processes).pool() as pool:
        assert list(pool.map(pow, [2, 3, 4], [1, 2, 3])) == [2, 9, 64]
        assert (pool.submit(os.getpid).result() != os.getpid()) == processes


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os.killpg(0, signal.SIGINT); time.sleep(9)"])
def test_decoder_processes_end_with_the_main_process(end: str) -> None:
    program = [sys.executable, "-c", WITH_DECODERS.format(end=end)]
    root = Path(__file__).parents[2]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, start_new_session=True, timeout=60)
    group = int(done.stdout.split()[0])
    assert done.returncode != 0
    assert done.stderr.count("KeyboardInterrupt") <= 1  # none from the decoders
    deadline = time.monotonic() + 20
    while _live_commands(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _live_commands(group)


def _live_commands(group: int) -> list[str]:
    """Return the command lines of the live processes in a process group."""
    commands = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                commands.append(stat.with_name("cmdline").read_text())
        except OSError:  # the process has ended meanwhile
            continue
    return commands


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_that_run_side_by_side_use_one_thread_each_for_linear_algebra(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    threads = list(in_processes(os.getenv, THREAD_VARIABLES * 2, processes=processes, unit="variables"))
    expected = [before.get(name) for name in THREAD_VARIABLES] if processes == 1 else ["1"] * len(THREAD_VARIABLES)
    assert threads == expected * 2
    assert dict(os.environ) == before


def test_numpy_in_processes_side_by_side_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """threadpoolctl asks the loaded libraries for their numbers of threads."""
    pytest.importorskip("threadpoolctl")
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for pools in in_processes(blas_pools, [0] * 4, processes=2, unit="processes"):
        assert pools
        assert {pool["num_threads"] for pool in pools} == {1}


def blas_pools(_: int) -> list[dict[str, Any]]:
    import numpy
    import threadpoolctl

    assert numpy.__version__  # its library is loaded
    return [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the files of cgroups: `process` is /proc/self/cgroup, and below `mount` are the groups."""
    monkeypatch.setattr("common.parallel.PROCESS_CGROUPS", tmp_path / "process")
    monkeypatch.setattr("common.parallel.CGROUP_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    return tmp_path


VERSION_1 = b"7:memory:/pod\n4:cpu,cpuacct:/pod/container\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 64, id="not Linux"),
        pytest.param({"process": b"0::/\n"}, 64, id="v2, no limit file"),
        pytest.param({"process": b"0::/\n", "mount/cpu.max": b"max 100000\n"}, 64, id="v2, unlimited"),
        pytest.param({"process": b"0::/\n", "mount/cpu.max": b"400000 100000\n"}, 4, id="v2"),
        pytest.param({"process": b"0::/\n", "mount/cpu.max": b"110000 100000\n"}, 2, id="v2, rounded up"),
        pytest.param({"process": b"0::/\n", "mount/cpu.max": b"1000 100000\n"}, 1, id="v2, below one core"),
        pytest.param({"process": b"0::/\n", "mount/cpu.max": b"9900000 100000\n"}, 64, id="v2, above the affinity"),
        pytest.param(
            {
                "process": b"0::/a.slice/b.scope\n",
                "mount/a.slice/cpu.max": b"300000 100000\n",
                "mount/a.slice/b.scope/cpu.max": b"max 100000\n",
            },
            3,
            id="v2, limit of a group above",
        ),
        pytest.param({"process": b"0::/../other\n", "mount/cpu.max": b"500000 100000\n"}, 5, id="v2, other namespace"),
        pytest.param(
            {
                "process": VERSION_1,
                "mount/cpu/pod/container/cpu.cfs_quota_us": b"600000\n",
                "mount/cpu/pod/container/cpu.cfs_period_us": b"100000\n",
                "mount/cpu/cpu.cfs_quota_us": b"-1\n",
                "mount/cpu/cpu.cfs_period_us": b"100000\n",
            },
            6,
            id="v1",
        ),
        pytest.param(
            {
                "process": VERSION_1,
                "mount/cpu/cpu.cfs_quota_us": b"100000\n",
                "mount/cpu/cpu.cfs_period_us": b"50000\n",
            },
            2,
            id="v1, path of the host",
        ),
        pytest.param(
            {
                "process": VERSION_1,
                "mount/cpu/pod/container/cpu.cfs_quota_us": b"-1\n",
                "mount/cpu/pod/container/cpu.cfs_period_us": b"100000\n",
            },
            64,
            id="v1, unlimited",
        ),
        pytest.param(
            {
                "process": b"7:memory:/pod\n",
                "mount/pod/cpu.max": b"100000 100000\n",
                "mount/cpu/pod/cpu.cfs_quota_us": b"100000\n",
                "mount/cpu/pod/cpu.cfs_period_us": b"100000\n",
            },
            64,
            id="v1, group of another controller",
        ),
    ],
)
def test_available_cores_are_at_most_those_that_the_cgroup_allows(
    files: dict[str, bytes], cores: int, cgroups: Path
) -> None:
    write(cgroups, files)
    assert available_cores() == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_available_cores_are_those_of_the_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_default_decoders_divide_cores_among_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.parallel.available_cores", lambda: 64)
    assert [default_decoders(gpus) for gpus in (0, 1, 8, 32)] == [2, 16, 8, 4]
