"""A labeling job from start to end: check input and output, plan the shards, label them, publish the data set."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from common.manifest import Plan, shard_name
from common.sources import absolute_location
from common.storage import Storage, open_storage
from common.text import pluralize
from labeler.config import LabelSettings, RetrySettings, WorkSettings
from labeler.distributed.progress import ProgressMonitor
from labeler.distributed.throughput import format_throughput, measure_throughput
from labeler.planning.generations import check_compatible, read_plans
from labeler.planning.planner import list_images, plan_input, plan_retries
from labeler.planning.preflight import check_output, open_input
from labeler.planning.space import check_space
from labeler.publishing.index import UnusableIndex, open_index
from labeler.publishing.outcome import Outcome, Records, find_unretried, read_records
from labeler.publishing.publish import publish
from labeler.teacher.weights import TeacherSource, check_nonnegative_maps, find_teacher

MAX_SHARDS_PRINTED = 20  # number of shards set aside that the report lists


def label_input(settings: LabelSettings, output: str) -> int:
    """Label the images of `settings.input` into shards at `output`. Shards that are already committed are skipped.

    Returns the exit code: 0 if the data set is complete (or planned, with `plan_only`), 1 if shards or too many images
    failed. Raises UserError if the job cannot start, or if `output` was planned differently.
    """
    source = open_input(settings.input, output)
    storage = open_storage(output)
    check_output(storage)
    teacher = find_teacher(settings.teacher)
    check_nonnegative_maps(teacher)

    listing = list_images(source, settings.input)
    plans = plan_input(settings, storage, listing, teacher.identity)
    _print_plans(plans, output, listing.skipped)
    if settings.plan_only:
        storage.sweep()
        return 0
    return label_and_publish(settings, storage, plans, teacher, listing.table.num_rows)


def retry_failures(settings: RetrySettings) -> int:
    """Label the missing shards of a data set, and its failed images again, as a further generation.

    Returns the exit code: 0 if the data set is complete, 1 if shards or too many images failed again. Raises UserError
    if the job cannot start.
    """
    storage = open_storage(settings.dataset)
    plans = read_plans(storage)
    records = read_records(storage, plans)
    if settings.input:
        plans = [plan.model_copy(update={"input": settings.input}) for plan in plans]
    failed = find_unretried(storage, plans, records)
    if not failed and len(records) == _count_shards(plans):
        print("nothing to retry: no image failed and no shard is missing")
    teacher = find_teacher(settings.teacher or plans[0].teacher.name)
    check_compatible(plans, plans[0].config, teacher.identity)
    storage.check_writable()

    plans = plan_retries(storage, plans, failed)
    return label_and_publish(settings, storage, plans, teacher, input_images=0)


def label_and_publish(
    settings: WorkSettings, storage: Storage, plans: Sequence[Plan], teacher: TeacherSource, input_images: int
) -> int:
    """Label the missing shards of all generations, publish the data set and print a report. Returns the exit code.

    The report projects the cost of labeling `input_images` images; 0 omits the projection.
    """
    storage.sweep()
    committed = read_records(storage, plans)
    progress = ProgressMonitor(storage, plans, committed)
    set_aside: dict[int, str] = {}
    report: dict[str, Any] = {}
    state = "stopped"
    try:
        if len(committed) < _count_shards(plans):
            start = time.monotonic()
            set_aside = _label_missing_shards(settings, storage, plans, committed, teacher, progress)
            seconds = time.monotonic() - start
            new = [record for shard, record in read_records(storage, plans).items() if shard not in committed]
            report = measure_throughput(new, seconds, progress.workers, input_images, settings.price_per_hour)
        outcome, published = publish(storage, plans, settings.max_bad_fraction)
        state = "complete" if published else "incomplete"
    finally:
        progress.close(state, report)
        storage.sweep()
    _print_report(report, set_aside, outcome)
    if published:
        print(f"the data set is complete: {storage.location}")
        _report_missing_index(storage)
    else:
        print(_explain_unpublished(settings, storage, outcome))
    return 0 if published else 1


def _label_missing_shards(
    settings: WorkSettings,
    storage: Storage,
    plans: Sequence[Plan],
    committed: Records,
    teacher: TeacherSource,
    progress: ProgressMonitor,
) -> dict[int, str]:
    """Label the shards without a record. Returns the reason for each shard that failed too often.

    Workers get absolute locations, because those of a running cluster have another working folder.
    """
    if committed:
        print(f"resuming: {pluralize(len(committed), 'shard')} already committed")
    missing = [[shard for shard in plan.shard_indices if shard not in committed] for plan in plans]
    for plan, shards in zip(plans, missing, strict=True):
        check_space(storage, plan, len(shards))
    from labeler.distributed.pipeline import label_shards  # imports Ray, which takes a second

    output = absolute_location(storage.location)
    set_aside: dict[int, str] = {}
    for plan, shards in zip(plans, missing, strict=True):
        if shards:
            absolute = plan.model_copy(update={"input": absolute_location(plan.input)})
            set_aside |= label_shards(settings, output, absolute, shards, teacher, progress)
    return set_aside


def _count_shards(plans: Sequence[Plan]) -> int:
    return sum(plan.shards for plan in plans)


def _print_plans(plans: Sequence[Plan], output: str, skipped: Counter[str]) -> None:
    """Print the size of each generation, and how many files of the input are not images."""
    for plan in plans:
        name = "plan" if len(plans) == 1 else f"generation {plan.generation}"
        size = f"{pluralize(plan.shards, 'shard')}, {pluralize(plan.images, 'image')}, {plan.bytes:,} bytes"
        number = len(plan.classes or [])
        classes = f"{number:,} {'class' if number == 1 else 'classes'}"
        print(f"{name}: {size}, {classes if number else 'no classes (images outside of class folders)'}")
    last = plans[-1]
    print(f"      teacher {last.teacher.id}, output {output}, fingerprint {last.fingerprint[:12]}")
    if skipped:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in skipped.most_common(5))
        print(f"      {pluralize(skipped.total(), 'other file')} in the input ignored ({kinds})")


def _print_report(report: dict[str, Any], set_aside: dict[int, str], outcome: Outcome) -> None:
    """Print the throughput of the run, the shards that were set aside and the counts of labeled and failed images."""
    for line in format_throughput(report) if report else []:
        print(line)
    for shard, reason in sorted(set_aside.items())[:MAX_SHARDS_PRINTED]:
        print(f"{shard_name(shard)} was set aside: {reason}")
    if len(set_aside) > MAX_SHARDS_PRINTED:
        print(f"... and {pluralize(len(set_aside) - MAX_SHARDS_PRINTED, 'more shard')}")
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(outcome.failures.items()))
    failed = f"{len(outcome.failed):,} failed" + (f" ({reasons})" if reasons else "")
    print(f"{outcome.written:,} of {pluralize(outcome.planned, 'image')} labeled, {failed}")


def _report_missing_index(storage: Storage) -> None:
    """Print what to do if the index could not be written, because earlier versions labeled some of the shards."""
    try:
        open_index(storage)
    except UnusableIndex as reason:
        print(f"{reason}; to write the index: python -m labeler.index {storage.location}")


def _explain_unpublished(settings: WorkSettings, storage: Storage, outcome: Outcome) -> str:
    if outcome.unfinished:
        missing = pluralize(len(outcome.unfinished), "shard")
        return f"not published: {missing} still missing; run the same command again to resume"
    return (
        f"not published: {len(outcome.failed):,} of {pluralize(outcome.planned, 'image')} failed, more than "
        f"--max-bad-fraction {settings.max_bad_fraction:g} allows; failures.jsonl lists the reasons. Fix the images "
        f"and run python -m labeler.retry {storage.location}, or run again with a larger --max-bad-fraction to publish "
        "without them"
    )
