"""Does this data set keep every promise of the shard format? Finished or unfinished, by its files alone.

    python -m labeler.verify DATASET

The last line is one JSON object: ok, complete, shards, samples, failures, problems. Exit code 0 where ok, else 1.
"""

import argparse
import functools
import json
from typing import Any

import numpy as np
import pyarrow as pa

from common.errors import UserError, describe_error, run_program
from common.manifest import (
    CARD,
    CROISSANT,
    FAILURES,
    MANIFEST,
    Manifest,
    Plan,
    ShardRecord,
    plan_name,
    record_name,
    shard_name,
)
from common.parallel import in_processes
from common.storage import Storage, open_storage
from labeler.inspection.verify_shard import shard_problems, start_checking
from labeler.planning.generations import read_plans
from labeler.planning.listing import listing_checksum, read_listing
from labeler.planning.plan import fingerprint, planned_keys
from labeler.publishing.outcome import Records, compute_outcome, encode_failures, scan_records
from labeler.publishing.publish import describe_dataset, make_manifest, published_generation


def verify_dataset(dataset: str, workers: int | None = None) -> dict[str, Any]:
    """Check a data set. Returns the object that the program prints last."""
    storage = open_storage(dataset)
    report: dict[str, Any] = {"ok": False, "complete": False, "shards": 0, "samples": 0, "failures": 0, "problems": []}
    problems: list[str] = report["problems"]
    try:
        plans = read_plans(storage)
    except UserError as error:
        problems.append(str(error))
        return report
    records = _records(storage, plans, problems)
    published = _published(storage, plans, problems)
    for before, plan in zip([None, *plans], plans, strict=False):
        started = bool(published) or any(shard in records for shard in plan.shard_indices)
        problems += _plan_problems(storage, plan, before, started)
    problems += _file_problems(storage, plans, published, records)
    start = functools.partial(start_checking, dataset)
    for found in in_processes(shard_problems, sorted(records), processes=workers, unit="shards", start=start):
        problems += found
    if published and not any(shard not in records for plan in published for shard in plan.shard_indices):
        problems += _manifest_problems(storage, published, records)
    report |= {
        "ok": not problems,
        "complete": len(published) == len(plans),
        "shards": len(records),
        "samples": sum(record.samples for record in records.values()),
        "failures": _failures(storage, plans, records),
    }
    return report


def _published(storage: Storage, plans: list[Plan], problems: list[str]) -> list[Plan]:
    """The plans that the manifest covers; none where there is no manifest."""
    if not storage.exists(MANIFEST):
        return []
    try:
        generation = published_generation(storage, storage.read(MANIFEST))
    except UserError as error:
        problems.append(str(error))
        return plans
    if generation >= len(plans):
        problems.append(f"{MANIFEST}: speaks of generation {generation}, but there is no {plan_name(generation)}")
    return plans[: generation + 1]


def _failures(storage: Storage, plans: list[Plan], records: Records) -> int:
    """Images that are still left out."""
    try:
        return len(compute_outcome(storage, plans, records).failed)
    except UserError:  # of a damaged listing, which is among the problems
        return sum(len(record.failed) for record in records.values())


def _records(storage: Storage, plans: list[Plan], problems: list[str]) -> Records:
    """The readable records; what is wrong with the others goes to the problems."""
    names = {record_name(shard): shard for plan in plans for shard in plan.shard_indices}
    sizes = [size for plan in plans for size in plan.shard_sizes()]
    records = {}
    for name, record in scan_records(storage):
        if name not in names:
            problems.append(f"{name}: no such shard is planned")
            continue
        if not isinstance(record, ShardRecord):
            problems.append(f"{name}: damaged: {describe_error(record)}")
            continue
        if record.shard != shard_name(names[name]):
            problems.append(f"{name}: speaks of {record.shard}")
        elif record.samples + len(record.failed) != sizes[names[name]]:
            problems.append(
                f"{name}: {record.samples} samples and {len(record.failed)} failures are not what was planned"
            )
        elif sum(record.failures.values()) != len(record.failed):
            problems.append(f"{name}: its counts by reason are not those of its failures")
        records[names[name]] = record
    return records


def _plan_problems(storage: Storage, plan: Plan, before: Plan | None, started: bool) -> list[str]:
    """Is the plan what its checksums say, and the listing what the plan says?"""
    problems = []
    if fingerprint(plan.config, plan.teacher, plan.classes, plan.listing_sha256, plan.parent) != plan.fingerprint:
        problems.append(f"{plan.name}: its fingerprint is not that of its content")
    following = before and (before.fingerprint, before.next_shard, before.next_image)
    if before and (plan.parent, plan.first_shard, plan.first_image) != following:
        problems.append(f"{plan.name}: does not follow {before.name}")
    if not storage.exists(plan.listing):
        return [*problems, f"{plan.listing} is missing"] if started else problems
    try:
        table = read_listing(storage, plan)
        if listing_checksum(table) != plan.listing_sha256:
            problems.append(f"{plan.listing}: its images are not those of the plan")
        problems += _deal_problems(table, plan)
    except UserError as error:
        problems.append(str(error))
    except KeyError as error:
        problems.append(f"{plan.listing}: has no column {error}")
    return problems


def _deal_problems(table: pa.Table, plan: Plan) -> list[str]:
    """Even to within one, keys without gaps."""
    if table.num_rows != plan.images:
        return [f"{plan.listing}: {table.num_rows} images, planned {plan.images}"]
    expected = np.repeat(np.array(plan.shard_indices), plan.shard_sizes())
    if not np.array_equal(table["shard"].to_numpy(), expected):
        return [f"{plan.listing}: the images are not dealt evenly to {plan.shards} shards"]
    first = plan.first_image
    if not table["key"].combine_chunks().equals(planned_keys(first, plan.images)):
        return [f"{plan.listing}: the keys are not the numbers from {first} to {first + plan.images - 1}"]
    return []


def _file_problems(storage: Storage, plans: list[Plan], published: list[Plan], records: Records) -> list[str]:
    """Tars without a plan, records without a tar; of what is published also tars without a record."""
    planned = {shard_name(shard) for plan in plans for shard in plan.shard_indices}
    present = {name for name in storage.list() if name.endswith(".tar")}
    problems = [f"{name}: no such shard is planned" for name in sorted(present - planned)]
    problems += [
        f"{shard_name(shard)}: has a record, but is missing" for shard in records if shard_name(shard) not in present
    ]
    expected = [shard for plan in published for shard in plan.shard_indices]
    return problems + [f"{shard_name(shard)}: has no record" for shard in expected if shard not in records]


def _manifest_problems(storage: Storage, plans: list[Plan], records: Records) -> list[str]:
    """Is what was published what the records say?"""
    expected, result = make_manifest(storage, plans, records), compute_outcome(storage, plans, records)
    problems = []
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST))
        if manifest != expected:
            differing = [name for name in Manifest.model_fields if getattr(manifest, name) != getattr(expected, name)]
            problems.append(f"{MANIFEST}: not what the records say: {', '.join(differing)}")
    except ValueError:
        pass  # said before
    if expected.written + expected.failed != expected.planned:
        problems.append(
            f"{expected.written} samples and {expected.failed} failures are not the {expected.planned} planned images"
        )
    for name, content in {**describe_dataset(plans[-1], expected), FAILURES: encode_failures(result.failed)}.items():
        if not storage.exists(name):
            problems.append(f"{name} is missing")
        elif name not in (CARD, CROISSANT) and not _same_json(storage.read(name), content):
            problems.append(f"{name}: not what the records say")
    return problems


def _same_json(found: bytes, expected: bytes) -> bool:
    """Equal as JSON lines: spelling does not count."""
    try:
        return [json.loads(line) for line in found.splitlines()] == [json.loads(line) for line in expected.splitlines()]
    except ValueError:
        return False


def main() -> int:
    """Check a data set and print what was found. Returns 0 where it keeps every promise, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m labeler.verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="folder of the data set, local or s3://BUCKET/PREFIX")
    parser.add_argument("--workers", type=int, help="processes; by default one a core")
    arguments = parser.parse_args()
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"--workers: expected 1 or more, found {arguments.workers}")
    report = verify_dataset(arguments.dataset, arguments.workers)
    for problem in report["problems"]:
        print(problem)
    print(json.dumps(report, ensure_ascii=False))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    run_program(main)
