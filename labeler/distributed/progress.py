"""How far a run is: a line for people, `progress.json` beside the plan for scripts."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from common.manifest import PROGRESS, Plan
from common.progress import progress_bar
from common.storage import Storage
from labeler.publishing.outcome import Records

POLL, WRITE = 0.5, 5.0  # seconds between two looks, and between two versions of progress.json
STALL = 120.0  # seconds without an image

ReadProgress = Callable[[], tuple[int, int]]


class ProgressMonitor:
    """Progress of a run: redrawn in place on a terminal, every 15 seconds in a log. `before` was done before it."""

    def __init__(self, storage: Storage, plans: Sequence[Plan], before: Records) -> None:
        self.storage = storage
        self.images, self.total_shards = sum(plan.images for plan in plans), sum(plan.shards for plan in plans)
        self.images_before = sum(record.samples + len(record.failed) for record in before.values())
        self.shards = len(before)
        self.done, self.failed = 0, 0  # images of this run
        self.workers = 0  # at most at the same time
        self.written = 0.0
        self.moved, self.stall = time.monotonic(), STALL
        self.bar: tqdm[Any] | None = None

    @contextlib.contextmanager
    def watching(self, counter: ReadProgress) -> Iterator[None]:
        """Show progress while the `with` block lasts; `counter` gives its images that are done, and of them failed."""
        before, stop = (self.done, self.failed), threading.Event()
        bar = self.bar = self.bar or self._bar()

        def look() -> None:
            done, failed = counter()
            self._check_stall(before[0] + done)
            self.done, self.failed = before[0] + done, before[1] + failed
            self._show(bar)

        def poll() -> None:
            while not stop.wait(POLL):
                look()

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        look()

    def _check_stall(self, done: int) -> None:
        """Say so where nothing moves: at first after STALL seconds, then after twice as many, and so on."""
        if done != self.done:
            self.moved, self.stall = time.monotonic(), STALL
        elif time.monotonic() - self.moved > self.stall:
            self.log(
                f"no image was finished for {self.stall:g} s: the workers may be waiting for the cluster's resources; "
                "`ray status` and `ray logs` tell"
            )
            self.stall *= 2

    def shard_done(self) -> None:
        """One more shard is committed."""
        self.shards += 1

    def log(self, text: str) -> None:
        """A line above the progress line."""
        tqdm.write(text, file=sys.stderr)

    def close(self, state: str, report: dict[str, Any]) -> None:
        """The run has ended; where it did nothing, nothing is written."""
        if self.bar is not None:
            self.bar.close()
            self._write(self.bar, state, report)

    def _bar(self) -> "tqdm[Any]":
        return progress_bar(
            desc=f"{self.shards}/{self.total_shards} shards",
            total=self.images,
            initial=self.images_before,
            bar_format="{desc}, {n_fmt}/{total_fmt} images, {rate_fmt}{postfix}, {remaining} left",
            unit=" images",
            smoothing=0.05,
        )

    def _show(self, bar: "tqdm[Any]") -> None:
        bar.set_description_str(f"{self.shards}/{self.total_shards} shards", refresh=False)
        bar.set_postfix_str(f"{self.failed} failed", refresh=False)
        bar.update(max(self.images_before + self.done - bar.n, 0))
        if time.monotonic() - self.written > WRITE:
            self.written = time.monotonic()
            self._write(bar, "labelling", None)

    def _write(self, bar: "tqdm[Any]", state: str, report: dict[str, Any] | None) -> None:
        rate = bar.format_dict["rate"]
        content = {
            "state": state,
            "shards": self.shards,
            "shards_planned": self.total_shards,
            "images": bar.n,
            "images_planned": self.images,
            "failed": self.failed,
            "images_per_second": rate,
            "seconds_left": (self.images - bar.n) / rate if rate else None,
            "updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "report": report,
        }
        # nothing depends on this file: a store that is down for a moment must not end the run
        with contextlib.suppress(OSError, UserError):
            self.storage.replace(PROGRESS, (json.dumps(content, indent=1) + "\n").encode())
