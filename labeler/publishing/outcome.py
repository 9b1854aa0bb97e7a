"""What became of every planned image: the records of all generations, added up."""

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

THREADS = 16  # that fetch records

Records = dict[int, ShardRecord]  # by shard


class Outcome(NamedTuple):
    """What became of the images of some generations."""

    planned: int  # different images; one that was tried again counts once
    written: int
    failed: list[Failure]  # those still left out, in the order of their last keys
    unfinished: list[int]  # shards without a record

    @property
    def failures(self) -> Counter[Reason]:
        """How many were left out, by reason."""
        return Counter(failure.reason for failure in self.failed)


def read_records(storage: Storage, plans: Sequence[Plan]) -> Records:
    """The records of the committed shards by shard index. Raises UserError where one is damaged."""
    shards = {record_name(shard): shard for plan in plans for shard in plan.shard_indices}
    records: Records = {}
    for name, record in scan_records(storage):
        if name not in shards:
            continue
        if isinstance(record, ValueError):
            raise UserError(
                f"{storage.location}/{name} is damaged: {describe_error(record)}. Delete it and run the same command "
                "again: its shard is made anew and compared with the one that is there"
            )
        if isinstance(record, OSError):
            raise record
        records[shards[name]] = record
    return records


def scan_records(storage: Storage) -> Iterator[tuple[str, ShardRecord | OSError | ValueError]]:
    """Every record there is, planned or not, by its name; the error in place of one that cannot be read."""
    names = storage.list(RECORDS)
    with ThreadPoolExecutor(THREADS) as pool:
        yield from zip(names, pool.map(lambda name: _read_record(storage, name), names), strict=True)


def compute_outcome(storage: Storage, plans: Sequence[Plan], records: Records) -> Outcome:
    """Add up the records. Where an image was planned again, its last generation counts."""
    failed: dict[str, Failure] = {}
    again = 0
    for plan in plans:
        made = [records[shard] for shard in plan.shard_indices if shard in records]
        if plan.generation and failed:
            retried = _tried(storage, plan, failed)
            again += len(retried)
            for uri, shard in retried.items():
                if shard in records:
                    del failed[uri]
        failed |= {failure.uri: failure for record in made for failure in record.failed}
    return Outcome(
        planned=sum(plan.images for plan in plans) - again,
        written=sum(records[shard].samples for plan in plans for shard in plan.shard_indices if shard in records),
        failed=sorted(failed.values(), key=lambda failure: failure.key),
        unfinished=[shard for plan in plans for shard in plan.shard_indices if shard not in records],
    )


def find_unretried(storage: Storage, plans: Sequence[Plan], records: Records) -> dict[str, Plan]:
    """The images that failed and that no later generation has planned, with the plan that had them."""
    failed: dict[str, Plan] = {}
    for plan in plans:
        if plan.generation and failed:
            for uri in _tried(storage, plan, failed):
                del failed[uri]
        made = [records[shard] for shard in plan.shard_indices if shard in records]
        failed |= {failure.uri: plan for record in made for failure in record.failed}
    return failed


def encode_failures(failed: Iterable[Failure]) -> bytes:
    """`failures.jsonl`: one line an image that was left out."""
    return b"".join(canonical_json(failure.model_dump(mode="json")) + b"\n" for failure in failed)


def _tried(storage: Storage, plan: Plan, uris: Iterable[str]) -> dict[str, int]:
    """Which of these images a plan has, and in which shard."""
    table = read_listing(storage, plan, ["uri", "shard"])
    found = table.filter(pc.is_in(table["uri"], value_set=pa.array(uris, pa.large_string())))
    return dict(zip(found["uri"].to_pylist(), found["shard"].to_pylist(), strict=True))


def _read_record(storage: Storage, name: str) -> ShardRecord | OSError | ValueError:
    try:
        return ShardRecord.model_validate_json(storage.read(name))
    except (OSError, ValueError) as error:
        return error
