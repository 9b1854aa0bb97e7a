import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.parallel import in_order, in_processes


def test_in_order_gives_results_in_the_order_of_the_items() -> None:
    def late_if_even(item: int) -> int:
        time.sleep(0.01 if item % 2 == 0 else 0)
        return item

    with ThreadPoolExecutor(4) as pool:
        assert list(in_order(pool, late_if_even, range(30), ahead=6)) == list(range(30))


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_in_order_holds_no_more_than_it_may(ahead: int) -> None:
    begun, taken, most = 0, 0, 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal begun
        with lock:
            begun += 1
        return item

    def items() -> Iterator[int]:
        nonlocal most
        for item in range(40):
            yield item
            most = max(most, item + 1 - taken)

    with ThreadPoolExecutor(4) as pool:
        for _ in in_order(pool, work, items(), ahead):
            taken += 1
            time.sleep(0.002)
            assert begun - taken <= ahead
    assert (taken, begun) == (40, 40)
    assert most <= ahead


def test_in_order_raises_what_the_function_raises() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, work, range(9), ahead=4)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="three"):
            next(results)


def test_in_order_of_nothing_is_nothing() -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(in_order(pool, str, [], ahead=3)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_in_processes_gives_results_in_the_order_of_the_arguments(processes: int) -> None:
    found = in_processes(pow, [2, 3, 4], [1, 2, 3], processes=processes, unit="powers", start=threading.Event)
    assert list(found) == [2, 9, 64]
    assert list(in_processes(str, [], processes=processes, unit="words")) == []
