"""Pauses between the attempts of a request that fails."""

import os

MAX_PAUSE = 10.0  # seconds


def backoff(attempt: int) -> float:
    """Return the seconds to wait after attempt number `attempt`: doubled each time, with random jitter."""
    return min(MAX_PAUSE, 0.1 * 2**attempt) * (0.5 + os.urandom(1)[0] / 512)
