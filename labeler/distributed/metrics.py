"""Prometheus metrics of a labeling job. Ray exports them and adds the prefix `ray_` to each name."""

from ray.util.metrics import Counter, Gauge

from common.manifest import Plan, ShardRecord

METRIC_DESCRIPTIONS = {
    "labeler_images_total": "images labeled",
    "labeler_failures_total": "images that failed, by reason",
    "labeler_shards_total": "shards committed",
    "labeler_shards_failed_total": "shards set aside after failing repeatedly",
    "labeler_bytes_total": "bytes of committed shards",
    "labeler_phase_seconds_total": "seconds spent on committed shards, by phase; fetch, decode and encode are summed "
    "over threads",
    "labeler_images_planned": "images of the plan",
    "labeler_shards_planned": "shards of the plan",
}


class WorkerMetrics:
    """Counters of one worker."""

    def __init__(self, dataset: str) -> None:
        self.images = _counter("labeler_images_total", dataset)
        self.failures = _counter("labeler_failures_total", dataset, "reason")
        self.shards = _counter("labeler_shards_total", dataset)
        self.bytes = _counter("labeler_bytes_total", dataset)
        self.seconds = _counter("labeler_phase_seconds_total", dataset, "phase")

    def count_shard(self, record: ShardRecord) -> None:
        """Add a committed shard."""
        for counter, value in ((self.images, record.samples), (self.shards, 1), (self.bytes, record.bytes)):
            if value:
                counter.inc(value)
        for reason, count in record.failures.items():
            self.failures.inc(count, tags={"reason": reason.value})
        for phase, seconds in record.seconds.items():
            if seconds:
                self.seconds.inc(seconds, tags={"phase": phase})


class JobMetrics:
    """Metrics of the job as a whole: the size of its plan, and the shards that were set aside."""

    def __init__(self, dataset: str, plan: Plan) -> None:
        self.shards_failed = _counter("labeler_shards_failed_total", dataset)
        for name, value in (("labeler_images_planned", plan.images), ("labeler_shards_planned", plan.shards)):
            gauge = Gauge(name, METRIC_DESCRIPTIONS[name], tag_keys=("dataset",))
            gauge.set_default_tags({"dataset": dataset})
            gauge.set(value)

    def count_set_aside_shard(self) -> None:
        """Add a shard that was set aside."""
        self.shards_failed.inc()


def _counter(name: str, dataset: str, *tags: str) -> Counter:
    counter = Counter(name, METRIC_DESCRIPTIONS[name], tag_keys=("dataset", *tags))
    counter.set_default_tags({"dataset": dataset})
    return counter
