"""What labelling, appending and retrying share: make the shards that are not there yet, publish, and tell."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from common.errors import UserError
from common.manifest import Plan, shard_name
from common.sources import Source
from common.sources.listing import Listing
from common.storage import Storage
from labeler.config import WorkSettings
from labeler.distributed.progress import ProgressMonitor
from labeler.distributed.throughput import format_throughput, measure_throughput
from labeler.labeling.shard import shard_bytes
from labeler.publishing.outcome import Outcome, Records, read_records
from labeler.publishing.publish import publish
from labeler.teacher.weights import TeacherSource

SHOWN = 20  # shards that were set aside


def list_images(source: Source, location: str) -> Listing:
    """List an input and tell how far it is: a large one takes minutes."""
    print(f"listing {location} ...", flush=True)
    shown = sys.stderr.isatty()
    return source.list(lambda images: print(f"{images:,} images", end="\r", file=sys.stderr) if shown else None)


def check_object_size(storage: Storage, plan: Plan) -> None:
    """Raises UserError where shards would be too large for the store."""
    shard = _mean_shard_bytes(plan)
    if shard > storage.largest_object:
        raise UserError(
            f"--samples-per-shard {plan.config.samples_per_shard}: shards of about {shard:,} bytes, an object of "
            f"this store holds {storage.largest_object:,}; choose fewer samples"
        )


def label_and_publish(
    settings: WorkSettings, storage: Storage, plans: Sequence[Plan], teacher: TeacherSource, images_of_input: int
) -> int:
    """Finish the shards of all generations and publish. Returns 0 where the data set is complete, else 1."""
    storage.sweep()
    before = read_records(storage, plans)
    set_aside: dict[int, str] = {}
    report: dict[str, Any] = {}
    state = "stopped"
    progress = ProgressMonitor(storage, plans, before)
    try:
        if len(before) < sum(plan.shards for plan in plans):
            started = time.monotonic()
            set_aside = _label(settings, storage, plans, before, teacher, progress)
            made = [record for shard, record in read_records(storage, plans).items() if shard not in before]
            seconds = time.monotonic() - started
            report = measure_throughput(made, seconds, progress.workers, images_of_input, settings.price_per_hour)
        result, published = publish(storage, plans, settings.max_bad_fraction)
        state = "complete" if published else "incomplete"
    finally:
        progress.close(state, report)
        storage.sweep()
    _tell(set_aside, report, result)
    print(f"the data set is complete: {storage.location}" if published else _why_not(settings, storage, result))
    return 0 if published else 1


def _label(
    settings: WorkSettings,
    storage: Storage,
    plans: Sequence[Plan],
    before: Records,
    teacher: TeacherSource,
    progress: ProgressMonitor,
) -> dict[int, str]:
    """Make the shards that are not there yet. Returns those that were set aside, with the reason."""
    if before:
        print(f"going on: {len(before):,} shards are there")
    pending = [[shard for shard in plan.shard_indices if shard not in before] for plan in plans]
    for plan, shards in zip(plans, pending, strict=True):
        _check_space(storage, plan, len(shards))
    from labeler.distributed.pipeline import label_shards  # Ray takes a second to import

    set_aside: dict[int, str] = {}
    for plan, shards in zip(plans, pending, strict=True):
        if shards:
            set_aside |= label_shards(settings, storage.location, plan, shards, teacher, progress)
    return set_aside


def _tell(set_aside: dict[int, str], report: dict[str, Any], result: Outcome) -> None:
    """What was made, how fast, and what was not."""
    for line in format_throughput(report) if report else []:
        print(line)
    for shard, problem in sorted(set_aside.items())[:SHOWN]:
        print(f"{shard_name(shard)} was set aside: {problem}")
    if len(set_aside) > SHOWN:
        print(f"... and {len(set_aside) - SHOWN:,} more shards")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(result.failures.items()))
    failed = f"{len(result.failed):,} failed" + (f" ({reasons})" if reasons else "")
    print(f"{result.written:,} of {result.planned:,} images labelled, {failed}")


def _check_space(storage: Storage, plan: Plan, pending: int) -> None:
    """Raises UserError where the shards cannot fit."""
    shard = _mean_shard_bytes(plan)
    needed, free = shard * pending, storage.free_bytes()
    if free < needed:
        raise UserError(f"{storage.location}: the shards need about {needed:,} bytes, {free:,} are free")
    scratch = storage.scratch_bytes()
    if pending and scratch < shard:
        raise UserError(
            f"a shard needs about {shard:,} bytes of scratch space, {scratch:,} are free: make room, or let TMPDIR "
            "name a folder on a larger disk"
        )


def _mean_shard_bytes(plan: Plan) -> int:
    return shard_bytes(plan.images, plan.bytes, plan.config.include_images) // plan.shards


def _why_not(settings: WorkSettings, storage: Storage, result: Outcome) -> str:
    if result.unfinished:
        return f"{len(result.unfinished):,} shards are not made yet: run the same command again to go on"
    return (
        f"not published: {len(result.failed):,} of {result.planned:,} images failed, more than --max-bad-fraction "
        f"{settings.max_bad_fraction:g}. failures.jsonl says why. Mend the images and run "
        f"python -m labeler.retry {storage.location}, or run again with a larger --max-bad-fraction to publish all the "
        "same"
    )
