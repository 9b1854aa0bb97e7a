import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.parallel import Decoders, default_decoders, in_order, in_processes

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


def test_default_decoders_divide_cores_among_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert [default_decoders(gpus) for gpus in (0, 1, 8, 32)] == [2, 16, 8, 4]
