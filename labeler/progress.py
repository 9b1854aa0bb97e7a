"""The line that a person watches: shards done, images a second, failures, time left."""

import sys

from tqdm import tqdm

from common.manifest import Plan


class ProgressLine:
    """Progress of a run; on a terminal it is redrawn in place, in a log it is written every 15 seconds."""

    def __init__(self, plan: Plan, images_before: int, shards_before: int) -> None:
        terminal = sys.stderr.isatty()
        self.before = images_before
        self.shards = shards_before
        self.total_shards = plan.shards
        self.failed = 0
        self.bar = tqdm(
            total=plan.images,
            initial=images_before,
            unit=" images",
            mininterval=0.2 if terminal else 15,
            bar_format="{desc}, {n_fmt}/{total_fmt} images, {rate_fmt}{postfix}, {remaining} left",
            smoothing=0.05,
        )
        self._describe()

    def images(self, done: int, failed: int) -> None:
        """So many images of this run are done, so many of them failed."""
        self.failed = failed
        self._describe()
        self.bar.update(max(self.before + done - self.bar.n, 0))

    def shard_done(self) -> None:
        """One more shard is committed, or set aside."""
        self.shards += 1
        self._describe()

    def close(self) -> None:
        """Leave the line as it stands."""
        self.bar.close()

    def _describe(self) -> None:
        self.bar.set_description_str(f"{self.shards}/{self.total_shards} shards", refresh=False)
        self.bar.set_postfix_str(f"{self.failed} failed", refresh=False)
