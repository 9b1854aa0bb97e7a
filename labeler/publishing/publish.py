"""The last step: from the records of all shards to the files that describe the data set, the manifest last."""

from collections.abc import Sequence

from common.errors import UserError, describe_error
from common.manifest import (
    CARD,
    CLASSES,
    CROISSANT,
    FAILURES,
    MANIFEST,
    SCHEMA,
    SIZES,
    Manifest,
    Plan,
    ShardEntry,
    canonical_json,
    sha256,
)
from common.shards import SampleInfo
from common.storage import Storage
from labeler.publishing.card import dataset_card
from labeler.publishing.croissant import make_croissant
from labeler.publishing.outcome import Outcome, Records, compute_outcome, encode_failures, read_records


def publish(storage: Storage, plans: Sequence[Plan], max_bad_fraction: float) -> tuple[Outcome, bool]:
    """Write what describes the data set if all shards are made and few enough images failed.

    The ledger of failures is written also where there is no manifest. Running it again writes the same bytes.
    Returns what became of the images, and whether the data set is published. Raises UserError where another job
    published something else meanwhile.
    """
    records = read_records(storage, plans)
    result = compute_outcome(storage, plans, records)
    current = storage.read(MANIFEST) if storage.exists(MANIFEST) else None
    if current is not None and published_generation(storage, current) > plans[-1].generation:
        return result, True  # by a job that has planned more since we began
    # what is published stays so; and 0.29 * 100 is a little less than 29
    acceptable = current is not None or len(result.failed) <= max_bad_fraction * result.planned + 1e-6
    complete = not result.unfinished and acceptable
    if complete or current is None:
        storage.replace(FAILURES, encode_failures(result.failed))
    if not complete:
        return result, False
    manifest = make_manifest(storage, plans, records)
    for name, content in describe_dataset(plans[-1], manifest).items():
        storage.replace(name, content)
    if not storage.swap(MANIFEST, current, manifest.to_json()):
        raise UserError(f"{storage.location}/{MANIFEST}: another job replaced it just now; run the same command again")
    return result, True


def make_manifest(storage: Storage, plans: Sequence[Plan], records: Records) -> Manifest:
    """The manifest of a finished data set; its parent is the one of the generations before, published or not."""
    parent = make_manifest(storage, plans[:-1], records) if len(plans) > 1 else None
    last, result = plans[-1], compute_outcome(storage, plans, records)
    made = [records[shard] for plan in plans for shard in plan.shard_indices]
    return Manifest(
        generation=last.generation,
        parent=sha256(parent.to_json()) if parent else None,
        fingerprint=last.fingerprint,
        teacher=last.teacher,
        map_size=last.config.map_size,
        include_images=last.config.include_images,
        classes=len(last.classes) if last.classes is not None else None,
        planned=result.planned,
        written=result.written,
        failed=len(result.failed),
        failures=dict(sorted(result.failures.items())),
        bytes=sum(record.bytes for record in made),
        shards=[
            ShardEntry(name=record.shard, sha256=record.sha256, bytes=record.bytes, samples=record.samples)
            for record in made
        ],
    )


def published_generation(storage: Storage, manifest: bytes) -> int:
    """The generation of a manifest's bytes. Raises UserError where they are none."""
    try:
        return Manifest.model_validate_json(manifest).generation
    except ValueError as error:
        raise UserError(
            f"{storage.location}/{MANIFEST} is damaged: {describe_error(error)}. Delete it and run the same "
            "command again"
        ) from None


def describe_dataset(plan: Plan, manifest: Manifest) -> dict[str, bytes]:
    """The files for readers and their tools, beside the manifest. The plan is the last one."""
    files = {
        SIZES: canonical_json({shard.name: shard.samples for shard in manifest.shards}),
        SCHEMA: canonical_json(SampleInfo.model_json_schema()),
        CARD: dataset_card(plan, manifest).encode(),
        CROISSANT: make_croissant(plan, manifest),
    }
    if plan.classes is not None:
        files[CLASSES] = canonical_json({str(index): name for index, name in enumerate(plan.classes)})
    return files
