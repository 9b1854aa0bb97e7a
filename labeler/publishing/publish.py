"""The last step of a job: write the files that describe the data set from the records of its shards."""

from collections.abc import Sequence
from typing import Any

from common.errors import UserError
from common.manifest import (
    CARD,
    CLASSES,
    CROISSANT,
    FAILURES,
    MANIFEST,
    SCHEMA,
    SIZES,
    TIMM_INFO,
    Manifest,
    Plan,
    ShardEntry,
    canonical_json,
    sha256,
)
from common.shards import SampleInfo
from common.storage import Storage
from labeler.planning.generations import read_published_generation
from labeler.publishing.card import make_card
from labeler.publishing.croissant import make_croissant
from labeler.publishing.index import write_index
from labeler.publishing.outcome import Outcome, Records, compute_outcome, encode_failures, read_records


def publish(storage: Storage, plans: Sequence[Plan], max_bad_fraction: float) -> tuple[Outcome, bool]:
    """Publish the data set if all shards are committed and at most `max_bad_fraction` of the images failed.

    The manifest is written last, because readers take its presence to mean that the data set is complete. The list of
    failures is written even if nothing is published. Publishing again writes the same bytes. The index is not written
    if a shard has no part of it (`write_index`).

    Returns the outcome of the planned images, and whether the data set is published. Raises UserError if another job
    published something else at the same time.
    """
    records = read_records(storage, plans)
    outcome = compute_outcome(storage, plans, records)
    current = storage.read(MANIFEST) if storage.exists(MANIFEST) else None
    # read after `current`, so that `swap` refuses if another job publishes between the two
    generation = read_published_generation(storage)
    if generation is not None and generation > plans[-1].generation:
        return outcome, True  # another job has planned and published a later generation
    # A published data set is never withdrawn. The tolerance is for products such as 0.29 * 100, slightly below 29.
    acceptable = current is not None or len(outcome.failed) <= max_bad_fraction * outcome.planned + 1e-6
    complete = not outcome.unfinished and acceptable
    if complete or current is None:
        storage.replace(FAILURES, encode_failures(outcome.failed))
    if not complete:
        return outcome, False
    manifest = make_manifest(storage, plans, records)
    for name, content in make_description_files(plans[-1], manifest).items():
        storage.replace(name, content)
    manifest_json = manifest.to_json()
    write_index(storage, manifest.shards, sha256(manifest_json))
    if not storage.swap(MANIFEST, current, manifest_json):
        raise UserError(f"{storage.location}/{MANIFEST}: another job replaced it just now; run the same command again")
    return outcome, True


def make_manifest(storage: Storage, plans: Sequence[Plan], records: Records) -> Manifest:
    """Return the manifest of a data set whose shards are all committed.

    Its `parent` is the checksum of the manifest that the earlier generations have on their own, so it does not depend
    on which of them were published.
    """
    parent = make_manifest(storage, plans[:-1], records) if len(plans) > 1 else None
    last, outcome = plans[-1], compute_outcome(storage, plans, records)
    shards = [records[shard] for plan in plans for shard in plan.shard_indices]
    return Manifest(
        generation=last.generation,
        parent=sha256(parent.to_json()) if parent else None,
        fingerprint=last.fingerprint,
        teacher=last.teacher,
        map_size=last.config.map_size,
        include_images=last.config.include_images,
        classes=len(last.classes) if last.classes is not None else None,
        planned=outcome.planned,
        written=outcome.written,
        failed=len(outcome.failed),
        failures=dict(sorted(outcome.failures.items())),
        bytes=sum(record.bytes for record in shards),
        shards=[
            ShardEntry(name=record.shard, sha256=record.sha256, bytes=record.bytes, samples=record.samples)
            for record in shards
        ],
    )


def make_description_files(plan: Plan, manifest: Manifest) -> dict[str, bytes]:
    """Return the files that describe the data set in addition to the manifest, by name. `plan` is the last one."""
    files = {
        SIZES: canonical_json({shard.name: shard.samples for shard in manifest.shards}),
        TIMM_INFO: canonical_json({"splits": {"train": _describe_split("train", manifest.shards)}}),
        SCHEMA: canonical_json(SampleInfo.model_json_schema()),
        CARD: make_card(plan, manifest).encode(),
        CROISSANT: make_croissant(plan, manifest),
    }
    if plan.classes is not None:
        files[CLASSES] = canonical_json({str(index): name for index, name in enumerate(plan.classes)})
    return files


def _describe_split(name: str, shards: Sequence[ShardEntry]) -> dict[str, Any]:
    """Return a split of `_info.json`, with all keys that timm's WebDataset reader requires."""
    return {
        "name": name,
        "num_samples": sum(shard.samples for shard in shards),
        "filenames": [shard.name for shard in shards],
        "shard_lengths": [shard.samples for shard in shards],
    }
