"""Verification of a data set: plans, listings, records, shards and published files must agree with each other."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from common.errors import UserError, describe_error
from common.manifest import CARD, INDEX, MANIFEST, Plan, ShardEntry, ShardRecord, plan_name, record_name, shard_name
from common.storage import Storage, open_storage
from common.text import pluralize
from labeler.planning.generations import read_plans, read_published_generation
from labeler.planning.listing import listing_checksum, read_listing
from labeler.planning.plan import compute_fingerprint, make_keys
from labeler.publishing.outcome import Records, compute_outcome, scan_records
from labeler.verification.shard_checks import EVERYTHING, CheckSettings, check_shards, new_report
from labeler.verification.verify_published import find_published_problems
from labeler.verification.verify_shard import PlannedShardChecker


def verify_dataset(dataset: str, workers: int | None = None, settings: CheckSettings = EVERYTHING) -> dict[str, Any]:
    """Check a data set and return the report, the JSON object that `labeler.verify` prints.

    Args:
        dataset: a folder or s3://BUCKET/PREFIX.
        workers: number of processes, by default one per CPU core.
        settings: which shards are checked.
    """
    storage = open_storage(dataset)
    report = new_report()
    problems: list[str] = report["problems"]
    try:
        plans = read_plans(storage)
    except UserError as error:
        problems.append(str(error))
        return report
    records = _read_sound_records(storage, plans, problems)
    published = _select_published(storage, plans, problems)
    for previous, plan in zip([None, *plans], plans, strict=False):
        started = bool(published) or any(shard in records for shard in plan.shard_indices)
        problems += _find_plan_problems(storage, plan, previous, started)
    problems += _find_unplanned_and_unrecorded_shards(storage, plans, published, records)
    problems += _find_training_run(storage)
    shards = [_make_entry(shard, record) for shard, record in sorted(records.items())]
    make_checker = functools.partial(PlannedShardChecker, dataset)
    checks = check_shards(make_checker, shards, _make_basis(storage, plans), workers, settings)
    problems += checks.problems
    if published and all(shard in records for plan in published for shard in plan.shard_indices):
        problems += find_published_problems(storage, published, records)
    report |= {
        "ok": not problems,
        "complete": len(published) == len(plans),
        "shards": len(records),
        "samples": sum(record.samples for record in records.values()),
        "failures": _count_failures(storage, plans, records),
    }
    return report | checks.describe_coverage([])


def _make_entry(shard: int, record: ShardRecord) -> ShardEntry:
    return ShardEntry(name=shard_name(shard), sha256=record.sha256, bytes=record.bytes, samples=record.samples)


def _make_basis(storage: Storage, plans: Sequence[Plan]) -> str:
    """Return what the shards are checked against, in addition to their records' checksums."""
    states = [storage.stat(name) if storage.exists(name) else None for name in (MANIFEST, INDEX)]
    return repr([storage.location, *(plan.fingerprint for plan in plans), *states])


def _read_sound_records(storage: Storage, plans: list[Plan], problems: list[str]) -> Records:
    """Return the records that can be read, by shard index. Problems of all records are appended to `problems`."""
    indices = {record_name(shard): shard for plan in plans for shard in plan.shard_indices}
    sizes = [size for plan in plans for size in plan.shard_sizes()]
    records = {}
    for name, record in scan_records(storage):
        if name not in indices:
            problems.append(f"{name}: no plan contains this shard")
            continue
        if not isinstance(record, ShardRecord):
            problems.append(f"{name}: damaged: {describe_error(record)}")
            continue
        index = indices[name]
        samples, failures = record.samples, len(record.failed)
        if record.shard != shard_name(index):
            problems.append(f"{name}: expected the record of {shard_name(index)}, found that of {record.shard}")
        elif samples + failures != sizes[index]:
            problems.append(
                f"{name}: expected {pluralize(sizes[index], 'planned image')}, "
                f"found {pluralize(samples, 'sample')} and {pluralize(failures, 'failure')}"
            )
        elif sum(record.failures.values()) != failures:
            problems.append(
                f"{name}: its counts by reason add up to {sum(record.failures.values())}, "
                f"but it lists {pluralize(failures, 'failure')}"
            )
        records[index] = record
    return records


def _select_published(storage: Storage, plans: list[Plan], problems: list[str]) -> list[Plan]:
    """Return the plans that the manifest covers: none without a manifest, all if it is damaged."""
    try:
        generation = read_published_generation(storage)
    except UserError as error:
        problems.append(str(error))
        return plans
    if generation is None:
        return []
    if generation >= len(plans):
        problems.append(f"{MANIFEST}: covers generation {generation}, but {plan_name(generation)} is missing")
    return plans[: generation + 1]


def _find_plan_problems(storage: Storage, plan: Plan, previous: Plan | None, started: bool) -> list[str]:
    """Check a plan against its fingerprint, against the plan of the previous generation, and against its listing.

    The listing may be missing unless labeling has started.
    """
    problems = []
    if (
        compute_fingerprint(plan.config, plan.teacher, plan.classes, plan.listing_sha256, plan.parent)
        != plan.fingerprint
    ):
        problems.append(f"{plan.name}: its fingerprint does not match its content")
    expected = previous and (previous.fingerprint, previous.next_shard, previous.next_image)
    if previous and (plan.parent, plan.first_shard, plan.first_image) != expected:
        problems.append(f"{plan.name}: does not follow {previous.name}")
    if not storage.exists(plan.listing):
        return [*problems, f"{plan.listing} is missing"] if started else problems
    try:
        table = read_listing(storage, plan)
        if listing_checksum(table) != plan.listing_sha256:
            problems.append(f"{plan.listing}: its images are not those of the plan (other checksum)")
        problems += _find_listing_problems(table, plan)
    except UserError as error:
        problems.append(str(error))
    except KeyError as error:
        problems.append(f"{plan.listing}: has no column {error}")
    return problems


def _find_listing_problems(table: pa.Table, plan: Plan) -> list[str]:
    """Check that the listing distributes the images evenly over the shards, with consecutive keys."""
    if table.num_rows != plan.images:
        return [f"{plan.listing}: expected {pluralize(plan.images, 'image')}, found {table.num_rows:,}"]
    expected = np.repeat(np.array(plan.shard_indices), plan.shard_sizes())
    if not np.array_equal(table["shard"].to_numpy(), expected):
        return [f"{plan.listing}: the images are not distributed evenly over {pluralize(plan.shards, 'shard')}"]
    first = plan.first_image
    if not table["key"].combine_chunks().equals(make_keys(first, plan.images)):
        return [f"{plan.listing}: the keys are not the numbers from {first} to {first + plan.images - 1}"]
    return []


def _find_unplanned_and_unrecorded_shards(
    storage: Storage, plans: list[Plan], published: list[Plan], records: Records
) -> list[str]:
    """Find tars without a plan, and published shards without a record."""
    planned = {shard_name(shard) for plan in plans for shard in plan.shard_indices}
    present = {name for name in storage.list() if name.endswith(".tar")}
    unplanned = [f"{name}: no plan contains this shard" for name in sorted(present - planned)]
    expected = [shard for plan in published for shard in plan.shard_indices]
    return unplanned + [f"{shard_name(shard)}: has no record" for shard in expected if shard not in records]


def _find_training_run(storage: Storage) -> list[str]:
    """Find checkpoints: earlier versions of trainer.run accepted a data set as output, and replaced its card."""
    return [
        f"{name}: belongs to a training run, which may have replaced {CARD}; move the files of the run to another "
        f"folder, and run the same labeler.run command again, which writes {CARD}"
        for name in storage.list("checkpoints")
    ]


def _count_failures(storage: Storage, plans: list[Plan], records: Records) -> int:
    """Return the number of images that failed and were not labeled by a later generation."""
    try:
        return len(compute_outcome(storage, plans, records).failed)
    except UserError:  # a damaged listing, which is already among the problems
        return sum(len(record.failed) for record in records.values())
