"""Does this data set keep every promise of the shard format? Finished or unfinished, by its files alone.

    python -m labeler.verify DATASET

The last line is one JSON object: ok, complete, shards, samples, failures, problems. Exit code 0 where ok, else 1.
"""

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from common.errors import UserError, run_program, told
from common.manifest import (
    CARD,
    CROISSANT,
    FAILURES,
    LISTING,
    MANIFEST,
    PLAN,
    RECORDS,
    Manifest,
    Plan,
    Record,
    record_name,
    shard_name,
)
from common.storage import Storage, open_storage
from labeler.plan import fingerprint, listing_checksum, read_listing, read_plan
from labeler.publish import description, failures_ledger, make_manifest
from labeler.verify_shard import shard_problems


def verify(dataset: str, workers: int | None = None) -> dict[str, Any]:
    """Check a data set. Returns the object that the program prints last."""
    storage = open_storage(dataset)
    report: dict[str, Any] = {"ok": False, "complete": False, "shards": 0, "samples": 0, "failures": 0, "problems": []}
    problems: list[str] = report["problems"]
    try:
        plan = read_plan(storage)
    except UserError as error:
        problems.append(str(error))
        return report
    records = _records(storage, plan, problems)
    complete = storage.exists(MANIFEST)
    problems += _plan_problems(storage, plan, complete or bool(records))
    problems += _file_problems(storage, plan, records, complete)
    problems += _each_shard(dataset, sorted(records), workers)
    if complete:
        problems += _manifest_problems(storage, plan, records)
    report |= {
        "ok": not problems,
        "complete": complete,
        "shards": len(records),
        "samples": sum(record.samples for record in records.values()),
        "failures": sum(len(record.failed) for record in records.values()),
    }
    return report


def _records(storage: Storage, plan: Plan, problems: list[str]) -> dict[int, Record]:
    """The readable records; what is wrong with the others goes to the problems."""
    names = {record_name(shard): shard for shard in range(plan.shards)}
    records = {}
    for name in storage.list(RECORDS):
        if name not in names:
            problems.append(f"{name}: no such shard is planned")
            continue
        try:
            record = Record.model_validate_json(storage.read(name))
        except ValueError as error:
            problems.append(f"{name}: damaged: {told(error)}")
            continue
        if record.shard != shard_name(names[name]):
            problems.append(f"{name}: speaks of {record.shard}")
        elif record.samples + len(record.failed) != plan.shard_sizes()[names[name]]:
            problems.append(
                f"{name}: {record.samples} samples and {len(record.failed)} failures are not what was planned"
            )
        elif sum(record.failures.values()) != len(record.failed):
            problems.append(f"{name}: its counts by reason are not those of its failures")
        records[names[name]] = record
    return records


def _plan_problems(storage: Storage, plan: Plan, started: bool) -> list[str]:
    """Is the plan what its checksums say, and the listing what the plan says?"""
    problems = []
    if fingerprint(plan.config, plan.teacher, plan.classes, plan.listing_sha256) != plan.fingerprint:
        problems.append(f"{PLAN}: its fingerprint is not that of its content")
    if not storage.exists(LISTING):
        return [*problems, f"{LISTING} is missing"] if started else problems
    try:
        table = read_listing(storage)
        if listing_checksum(table) != plan.listing_sha256:
            problems.append(f"{LISTING}: its images are not those of the plan")
        problems += _deal_problems(table, plan)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        problems.append(f"{LISTING}: damaged: {told(error)}")
    return problems


def _deal_problems(table: pa.Table, plan: Plan) -> list[str]:
    """Even to within one, keys without gaps."""
    sizes = plan.shard_sizes()
    if table.num_rows != plan.images:
        return [f"{LISTING}: {table.num_rows} images, planned {plan.images}"]
    expected = np.repeat(np.arange(plan.shards), sizes)
    if not np.array_equal(table["shard"].to_numpy(), expected):
        return [f"{LISTING}: the images are not dealt evenly to {plan.shards} shards"]
    if table["key"].to_pylist() != [f"{key:09d}" for key in range(plan.images)]:
        return [f"{LISTING}: the keys are not the numbers from 0 to {plan.images - 1}"]
    return []


def _file_problems(storage: Storage, plan: Plan, records: dict[int, Record], complete: bool) -> list[str]:
    """Tars without a plan, records without a tar; in a finished data set also tars without a record."""
    planned = {shard_name(shard): shard for shard in range(plan.shards)}
    present = {name for name in storage.list() if name.endswith(".tar")}
    problems = [f"{name}: no such shard is planned" for name in sorted(present - planned.keys())]
    problems += [
        f"{shard_name(shard)}: has a record, but is missing" for shard in records if shard_name(shard) not in present
    ]
    if complete:
        problems += [f"{name}: has no record" for name, shard in planned.items() if shard not in records]
    return problems


def _each_shard(dataset: str, shards: list[int], workers: int | None) -> list[str]:
    """Check the committed shards, in as many processes as there are cores."""
    processes = min(workers or os.cpu_count() or 1, len(shards))
    progress: Callable[[Iterable[list[str]]], Iterable[list[str]]] = lambda results: tqdm(  # noqa: E731
        results, total=len(shards), unit=" shards", disable=not sys.stderr.isatty()
    )
    arguments = [dataset] * len(shards), shards
    if processes <= 1:
        found = list(progress(map(shard_problems, *arguments)))
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = list(progress(pool.map(shard_problems, *arguments)))
    return [problem for problems in found for problem in problems]


def _manifest_problems(storage: Storage, plan: Plan, records: dict[int, Record]) -> list[str]:
    """Is what was published what the records say?"""
    in_order = [records[shard] for shard in sorted(records)]
    expected = make_manifest(plan, in_order)
    problems = []
    try:
        manifest = Manifest.model_validate_json(storage.read(MANIFEST))
        if manifest != expected:
            differing = [name for name in Manifest.model_fields if getattr(manifest, name) != getattr(expected, name)]
            problems.append(f"{MANIFEST}: not what the records say: {', '.join(differing)}")
    except ValueError as error:
        problems.append(f"{MANIFEST}: damaged: {told(error)}")
    if expected.written + expected.failed != plan.images:
        problems.append(
            f"{expected.written} samples and {expected.failed} failures are not the {plan.images} planned images"
        )
    for name, content in {**description(plan, expected), FAILURES: failures_ledger(in_order)}.items():
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
    parser.add_argument("dataset", help="folder of the data set")
    parser.add_argument("--workers", type=int, help="processes; by default one a core")
    arguments = parser.parse_args()
    if not Path(arguments.dataset).is_dir():
        raise UserError(f"{arguments.dataset}: expected the folder of a data set, found none")
    report = verify(arguments.dataset, arguments.workers)
    for problem in report["problems"]:
        print(problem)
    print(json.dumps(report, ensure_ascii=False))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    run_program(main)
