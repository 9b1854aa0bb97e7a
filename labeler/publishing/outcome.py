"""The outcome of every planned image, computed from the records of the committed shards of all generations."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import Reason, UserError, describe_error
from common.manifest import RECORDS, Failure, Plan, ShardRecord, canonical_json, record_name
from common.storage import Storage
from labeler.planning.listing import read_listing

RECORD_THREADS = 16  # parallel reads: a request to S3 takes longer than parsing the record

Records = dict[int, ShardRecord]  # by shard index


class Outcome(NamedTuple):
    """Counts of the images of one or more generations that were planned, written and failed."""

    planned: int  # distinct images: one that was retried counts once
    written: int
    failed: list[Failure]  # images that are still missing from the data set, in the order of their latest keys
    unfinished: list[int]  # indices of the shards without a record

    @property
    def failures(self) -> Counter[Reason]:
        """Numbers of failed images by reason."""
        return Counter(failure.reason for failure in self.failed)


def read_records(storage: Storage, plans: Sequence[Plan]) -> Records:
    """Return the records of the committed shards by shard index. Raises UserError if one is damaged."""
    shards = {record_name(shard): shard for plan in plans for shard in plan.shard_indices}
    records: Records = {}
    for name, record in scan_records(storage):
        if name not in shards:
            continue
        if isinstance(record, ValueError):
            raise UserError(
                f"{storage.location}/{name} is damaged: {describe_error(record)}. Delete it and run the same command "
                "again: the shard is then labeled again and compared with the existing one"
            )
        if isinstance(record, OSError):
            raise record
        records[shards[name]] = record
    return records


def scan_records(storage: Storage) -> Iterator[tuple[str, ShardRecord | OSError | ValueError]]:
    """Yield the name of every record, planned or not, with its content, or with the error if it cannot be read."""
    names = storage.list(RECORDS)
    with ThreadPoolExecutor(RECORD_THREADS) as pool:
        yield from zip(names, pool.map(lambda name: _read_record(storage, name), names), strict=True)


def compute_outcome(storage: Storage, plans: Sequence[Plan], records: Records) -> Outcome:
    """Return the outcome of the images of these generations.

    The latest generation with a committed shard decides the outcome of an image that was retried. Raises UserError if
    the listing of a later generation is missing or damaged.
    """
    failed: dict[str, Failure] = {}
    retries = 0
    for plan in plans:
        if plan.generation and failed:
            retried = _find_shards(storage, plan, failed)
            retries += len(retried)
            for uri, shard in retried.items():
                if shard in records:
                    del failed[uri]
        failed |= {failure.uri: failure for record in _select_records(plan, records) for failure in record.failed}
    return Outcome(
        planned=sum(plan.images for plan in plans) - retries,
        written=sum(record.samples for plan in plans for record in _select_records(plan, records)),
        failed=sorted(failed.values(), key=lambda failure: failure.key),
        unfinished=[shard for plan in plans for shard in plan.shard_indices if shard not in records],
    )


def find_unretried(storage: Storage, plans: Sequence[Plan], records: Records) -> dict[str, Plan]:
    """Return the plan of each failed image that no later generation contains, by the image's uri."""
    failed: dict[str, Plan] = {}
    for plan in plans:
        if plan.generation and failed:
            for uri in _find_shards(storage, plan, failed):
                del failed[uri]
        failed |= {failure.uri: plan for record in _select_records(plan, records) for failure in record.failed}
    return failed


def encode_failures(failed: Iterable[Failure]) -> bytes:
    """Return the content of `failures.jsonl`: one line per failed image."""
    return b"".join(canonical_json(failure.model_dump(mode="json")) + b"\n" for failure in failed)


def _select_records(plan: Plan, records: Records) -> list[ShardRecord]:
    return [records[shard] for shard in plan.shard_indices if shard in records]


def _find_shards(storage: Storage, plan: Plan, uris: Iterable[str]) -> dict[str, int]:
    """Return the shard of each of these images that the plan contains, by uri."""
    table = read_listing(storage, plan, ["uri", "shard"])
    rows = table.filter(pc.is_in(table["uri"], value_set=pa.array(uris, pa.large_string())))
    return dict(zip(rows["uri"].to_pylist(), rows["shard"].to_pylist(), strict=True))


def _read_record(storage: Storage, name: str) -> ShardRecord | OSError | ValueError:
    try:
        return ShardRecord.model_validate_json(storage.read(name))
    except (OSError, ValueError) as error:
        return error
