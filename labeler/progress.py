"""The line that a person watches: shards done, images a second, failures, time left."""

import sys
import threading
from collections.abc import Callable

from tqdm import tqdm

from common.manifest import Plan

Counter = Callable[[], tuple[int, int]]


class ProgressLine:
    """Progress of a run, while its `with` block lasts: redrawn in place on a terminal, every 15 seconds in a log.

    `counter` gives the images that this run has done and how many of them failed; it is asked twice a second.
    """

    def __init__(self, plan: Plan, pending: list[int], counter: Counter) -> None:
        sizes = plan.shard_sizes()
        self.counter = counter
        self.before = plan.images - sum(sizes[shard] for shard in pending)
        self.shards = plan.shards - len(pending)
        self.total_shards = plan.shards
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._poll, daemon=True)
        self.bar = tqdm(
            desc=f"{self.shards}/{self.total_shards} shards",
            total=plan.images,
            initial=self.before,
            mininterval=0.2 if sys.stderr.isatty() else 15,
            bar_format="{desc}, {n_fmt}/{total_fmt} images, {rate_fmt}{postfix}, {remaining} left",
            unit=" images",
            smoothing=0.05,
        )

    def __enter__(self) -> "ProgressLine":
        self._show()
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        self.thread.join()
        self._show()
        self.bar.close()

    def shard_done(self) -> None:
        """One more shard is committed, or set aside."""
        self.shards += 1

    def _poll(self) -> None:
        while not self.stop.wait(0.5):
            self._show()

    def _show(self) -> None:
        done, failed = self.counter()
        self.bar.set_description_str(f"{self.shards}/{self.total_shards} shards", refresh=False)
        self.bar.set_postfix_str(f"{failed} failed", refresh=False)
        self.bar.update(max(self.before + done - self.bar.n, 0))
