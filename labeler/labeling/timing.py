"""Time spent in each phase of labeling a shard, for the shard's record."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator


class PhaseTimer:
    """Seconds by phase (`fetch`, `decode`, `teacher`, ...). Not thread-safe: each image has its own."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time that the `with` block takes to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def add(self, other: "PhaseTimer") -> None:
        """Add the seconds of another timer, phase by phase."""
        for phase, seconds in other.seconds.items():
            self.seconds[phase] += seconds

    def rounded(self) -> dict[str, float]:
        """Return the seconds of each phase in alphabetical order, to the millisecond."""
        return {phase: round(seconds, 3) for phase, seconds in sorted(self.seconds.items())}
