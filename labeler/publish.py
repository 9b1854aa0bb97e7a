"""The last step: from the records of all shards to the files that describe the data set, the manifest last."""

from collections import Counter
from typing import NamedTuple

from common.errors import Reason, UserError, told
from common.manifest import (
    CARD,
    CLASSES,
    CROISSANT,
    FAILURES,
    MANIFEST,
    RECORDS,
    SCHEMA,
    SIZES,
    Manifest,
    Plan,
    Record,
    ShardEntry,
    canonical_json,
    record_name,
)
from common.shards import SampleInfo
from common.storage import Storage
from labeler.card import data_set_card
from labeler.croissant import croissant


class Outcome(NamedTuple):
    """What became of a labelling job."""

    planned: int
    written: int
    failures: Counter[Reason]
    unfinished: list[int]
    published: bool

    @property
    def failed(self) -> int:
        """Images left out."""
        return sum(self.failures.values())


def read_records(storage: Storage, plan: Plan) -> dict[int, Record]:
    """The records of the committed shards by shard index. Raises UserError where one is damaged."""
    present = set(storage.list(RECORDS))
    return {
        shard: _read_record(storage, record_name(shard))
        for shard in range(plan.shards)
        if record_name(shard) in present
    }


def _read_record(storage: Storage, name: str) -> Record:
    try:
        return Record.model_validate_json(storage.read(name))
    except ValueError as error:
        raise UserError(
            f"{storage.location}/{name} is damaged: {told(error)}. Delete it and run the same command again: "
            "its shard is made anew and compared with the one that is there"
        ) from None


def publish(storage: Storage, plan: Plan, max_bad_fraction: float) -> Outcome:
    """Write what describes the data set if all shards are made and few enough images failed.

    The ledger of failures is written in any case. Running it again writes the same bytes.
    """
    records = read_records(storage, plan)
    unfinished = [shard for shard in range(plan.shards) if shard not in records]
    in_order = [records[shard] for shard in sorted(records)]
    storage.replace(FAILURES, failures_ledger(in_order))
    written = sum(record.samples for record in in_order)
    failures: Counter[Reason] = Counter()
    for record in in_order:
        failures.update(record.failures)
    # what is published stays so; and 0.29 * 100 is a little less than 29
    acceptable = storage.exists(MANIFEST) or sum(failures.values()) <= max_bad_fraction * plan.images + 1e-6
    if not unfinished and acceptable:
        manifest = make_manifest(plan, in_order)
        for name, content in description(plan, manifest).items():
            storage.replace(name, content)
        storage.replace(MANIFEST, manifest.to_json())
    return Outcome(plan.images, written, failures, unfinished, published=not unfinished and acceptable)


def make_manifest(plan: Plan, records: list[Record]) -> Manifest:
    """The manifest of a finished data set."""
    failures: Counter[Reason] = Counter()
    for record in records:
        failures.update(record.failures)
    return Manifest(
        fingerprint=plan.fingerprint,
        teacher=plan.teacher,
        map_size=plan.config["map_size"],
        include_images=plan.config["include_images"],
        classes=len(plan.classes) if plan.classes is not None else None,
        planned=plan.images,
        written=sum(record.samples for record in records),
        failed=sum(failures.values()),
        failures=dict(sorted(failures.items())),
        bytes=sum(record.bytes for record in records),
        shards=[
            ShardEntry(name=record.shard, sha256=record.sha256, bytes=record.bytes, samples=record.samples)
            for record in records
        ],
    )


def description(plan: Plan, manifest: Manifest) -> dict[str, bytes]:
    """The files for readers and their tools, beside the manifest."""
    files = {
        SIZES: canonical_json({shard.name: shard.samples for shard in manifest.shards}),
        SCHEMA: canonical_json(SampleInfo.model_json_schema()),
        CARD: data_set_card(plan, manifest).encode(),
        CROISSANT: croissant(plan, manifest),
    }
    if plan.classes is not None:
        files[CLASSES] = canonical_json({str(index): name for index, name in enumerate(plan.classes)})
    return files


def failures_ledger(records: list[Record]) -> bytes:
    """`failures.jsonl`: one line an image that was left out, in the order of the keys."""
    failed = [failure for record in records for failure in record.failed]
    return b"".join(canonical_json(failure.model_dump(mode="json")) + b"\n" for failure in failed)
