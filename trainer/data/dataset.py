"""A labelled data set as the trainer sees it: its shards and how many samples each holds, from manifest or records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.errors import UserError, describe_error
from common.manifest import CLASSES, MANIFEST, PLAN, RECORDS, SCHEMA_VERSION, Manifest, ShardRecord, sha256
from common.storage import Storage, open_storage


@dataclass(frozen=True)
class Dataset:
    """The shards of a data set, in the order of their names, with their true sample counts."""

    location: str
    shards: tuple[str, ...]
    sizes: tuple[int, ...]
    classes: int | None  # None: the samples have no classes
    checksum: str  # of the manifest; of the records where it is unfinished

    @property
    def samples(self) -> int:
        """Of all shards."""
        return sum(self.sizes)

    def class_names(self) -> list[str]:
        """By class index. Raises UserError where they cannot be read, or are not as many as the manifest says."""
        try:
            found = json.loads(open_storage(self.location).read(CLASSES))
            names = found if isinstance(found, list) else [found[str(index)] for index in range(len(found))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.location}/{CLASSES}: expected names by class index, 0, 1, ...: {describe_error(error)}"
            ) from None
        if len(names) != self.classes:
            raise UserError(f"{self.location}/{CLASSES}: expected {self.classes} classes, found {len(names)}")
        return names

    def part(self, numbers: Sequence[int]) -> "Dataset":
        """Only these of its shards."""
        shards, sizes = tuple(self.shards[n] for n in numbers), tuple(self.sizes[n] for n in numbers)
        return replace(self, shards=shards, sizes=sizes, checksum=sha256(f"{self.checksum} {shards}".encode()))


def split_shards(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Shards to learn from, and about `share` of them, drawn by the seed, to hold out. Raises UserError for one."""
    if len(data.shards) < 2:
        raise UserError(f"{data.location}: expected two shards or more, to hold one out, found {len(data.shards)}")
    order = np.random.default_rng([seed, len(data.shards)]).permutation(len(data.shards)).tolist()
    number = min(max(round(share * len(order)), 1), len(order) - 1)
    return data.part(sorted(order[number:])), data.part(sorted(order[:number]))


def open_dataset(location: str, unfinished: bool = False) -> Dataset:
    """Open the data set at a local folder or `s3://BUCKET/PREFIX`; one without a manifest only if `unfinished`.

    Raises UserError where there is none, it is of another schema version, or it holds no images.
    """
    storage = open_storage(location)
    try:
        content = storage.read(MANIFEST)
    except FileNotFoundError:
        return _unfinished(storage, unfinished)
    except OSError as error:
        raise UserError(f"{location}: expected the folder of a labelled data set: {error.strerror or error}") from None
    manifest = _manifest(location, content)
    _check_images(location, manifest.include_images)
    shards = sorted(manifest.shards, key=lambda shard: shard.name)
    return Dataset(
        location,
        tuple(shard.name for shard in shards),
        tuple(shard.samples for shard in shards),
        manifest.classes,
        sha256(content),
    )


def _manifest(location: str, content: bytes) -> Manifest:
    try:
        document = json.loads(content)
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(f"{location}/{MANIFEST}: expected schema version {SCHEMA_VERSION}, found {version!r}")
        return Manifest.model_validate(document)
    except ValueError as error:
        raise UserError(f"{location}/{MANIFEST}: not a manifest: {describe_error(error)}") from None


def _check_images(location: str, included: bool) -> None:
    if not included:
        raise UserError(f"{location}: a label-only data set, without images; label it with --include-images")


def _unfinished(storage: Storage, allowed: bool) -> Dataset:
    """From the records of the shards that are there."""
    names = [name for name in storage.list(RECORDS) if name.endswith(".json")]
    if not names:
        raise UserError(
            f"{storage.location}: expected a labelled data set, found no {MANIFEST} and no records; "
            f"make one: python -m labeler.run --input IMAGES --output {storage.location}"
        )
    if not allowed:
        raise UserError(
            f"{storage.location}: the data set is unfinished: {len(names)} shards are there, but no {MANIFEST}; finish "
            "it with the labeler.run command that began it (trainer.run reads what is there with --unfinished)"
        )
    try:
        records = [
            ShardRecord.model_validate_json(storage.read(f"{RECORDS}/{name.rpartition('/')[2]}")) for name in names
        ]
    except ValueError as error:
        raise UserError(f"{storage.location}/{RECORDS}: a record cannot be read: {describe_error(error)}") from None
    records.sort(key=lambda record: record.shard)
    plan = json.loads(storage.read(PLAN))
    _check_images(storage.location, plan["config"]["include_images"])
    return Dataset(
        storage.location,
        tuple(record.shard for record in records),
        tuple(record.samples for record in records),
        None if plan["classes"] is None else len(plan["classes"]),
        sha256("".join(record.sha256 for record in records).encode()),
    )
