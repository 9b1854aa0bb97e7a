import threading

import pytest

from labeler.labeling.time_limit import time_limit


def test_block_that_takes_too_long_is_reported_while_it_runs() -> None:
    reported = threading.Event()
    with time_limit(0.01, reported.set):
        assert reported.wait(10)


def test_block_that_ends_in_time_is_not_reported_later() -> None:
    reported = threading.Event()
    with time_limit(0.05, reported.set):
        pass
    assert not reported.wait(0.2)


def test_error_of_the_block_also_ends_the_limit() -> None:
    reported = threading.Event()
    with pytest.raises(ValueError, match="broken"), time_limit(0.05, reported.set):
        raise ValueError("broken")
    assert not reported.wait(0.2)
