"""A time limit on calls that cannot be interrupted from Python, such as a teacher that waits for its GPU forever."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def time_limit(seconds: float, on_timeout: Callable[[], None]) -> Iterator[None]:
    """Call a function, in another thread, if the `with` block takes longer than a limit.

    The function has to end the process, because the thread that runs the block cannot be stopped.
    """
    timer = threading.Timer(seconds, on_timeout)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
