"""Progress of a labeling job: a progress bar, and `progress.json` next to the plan for scripts."""

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

POLL_SECONDS = 0.5  # between two updates of the progress bar
WRITE_SECONDS = 5.0  # between two versions of progress.json
STALL_SECONDS = 120.0  # without a finished image, after which a warning is printed

ReadProgress = Callable[[], tuple[int, int]]  # returns the images done, and how many of them failed


class ProgressMonitor:
    """Progress of a run over all its plans, shown as a progress bar and written to `progress.json`.

    `committed` holds the records of earlier runs, where the bar starts. The attribute `workers` is the largest number
    of workers that ran at the same time; the pipeline sets it.
    """

    def __init__(self, storage: Storage, plans: Sequence[Plan], committed: Records) -> None:
        self.storage = storage
        self.total_images = sum(plan.images for plan in plans)
        self.total_shards = sum(plan.shards for plan in plans)
        self.images_before = sum(record.samples + len(record.failed) for record in committed.values())
        self.shards = len(committed)
        self.done, self.failed = 0, 0  # images of this run
        self.workers = 0
        self.warnings: set[str] = set()
        self.written_at = 0.0
        self.moved_at, self.stall_limit = time.monotonic(), STALL_SECONDS
        self.bar: tqdm[Any] | None = None

    @contextlib.contextmanager
    def watch(self, read_progress: ReadProgress) -> Iterator[None]:
        """Poll `read_progress` and show what it returns, for the duration of the `with` block.

        Its counts start at 0 in each block; those of consecutive blocks are added up.
        """
        done_before, failed_before = self.done, self.failed
        bar = self.bar = self.bar or self._make_bar()
        stop = threading.Event()

        def update() -> None:
            done, failed = read_progress()
            self._check_stall(done_before + done)
            self.done, self.failed = done_before + done, failed_before + failed
            self._show(bar)

        def poll() -> None:
            while not stop.wait(POLL_SECONDS):
                update()

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        update()

    def add_shard(self) -> None:
        """Count one more committed shard."""
        self.shards += 1

    def log(self, text: str) -> None:
        """Print a line above the progress bar."""
        tqdm.write(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Print a line above the progress bar, unless the same line was printed before."""
        if text not in self.warnings:
            self.warnings.add(text)
            self.log(text)

    def close(self, state: str, report: dict[str, Any]) -> None:
        """Write the final state and report to `progress.json`, unless the run did nothing."""
        if self.bar is not None:
            self.bar.close()
            self._write(self.bar, state, report)

    def _check_stall(self, done: int) -> None:
        """Warn if no image was finished for STALL_SECONDS, then after twice that time, and so on."""
        if done != self.done:
            self.moved_at, self.stall_limit = time.monotonic(), STALL_SECONDS
        elif time.monotonic() - self.moved_at > self.stall_limit:
            self.log(
                f"no image was finished for {self.stall_limit:g} s: the workers may be waiting for the cluster's "
                "resources; check `ray status` and `ray logs`"
            )
            self.stall_limit *= 2

    def _make_bar(self) -> "tqdm[Any]":
        return progress_bar(
            desc=f"{self.shards}/{self.total_shards} shards",
            total=self.total_images,
            initial=self.images_before,
            bar_format="{desc}, {n_fmt}/{total_fmt} images, {rate_noinv_fmt}{postfix}, {remaining} left",
            unit=" images",
            smoothing=0.05,
        )

    def _show(self, bar: "tqdm[Any]") -> None:
        bar.set_description_str(f"{self.shards}/{self.total_shards} shards", refresh=False)
        bar.set_postfix_str(f"{self.failed} failed", refresh=False)
        bar.update(max(self.images_before + self.done - bar.n, 0))
        if time.monotonic() - self.written_at > WRITE_SECONDS:
            self.written_at = time.monotonic()
            self._write(bar, "labelling", None)

    def _write(self, bar: "tqdm[Any]", state: str, report: dict[str, Any] | None) -> None:
        rate = bar.format_dict["rate"]
        content = {
            "state": state,
            "shards": self.shards,
            "shards_planned": self.total_shards,
            "images": bar.n,
            "images_planned": self.total_images,
            "failed": self.failed,
            "images_per_second": rate,
            "seconds_left": (self.total_images - bar.n) / rate if rate else None,
            "updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "report": report,
        }
        # no program of this project reads this file, so a store that is briefly unavailable must not end the run
        with contextlib.suppress(OSError, UserError):
            self.storage.replace(PROGRESS, (json.dumps(content, indent=1) + "\n").encode())
