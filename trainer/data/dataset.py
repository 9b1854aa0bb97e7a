"""A labeled data set as training needs it: its shards and the number of samples in each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.errors import UserError, describe_error
from common.manifest import CLASSES, MANIFEST, PLAN, RECORDS, SCHEMA_VERSION, Manifest, ShardRecord, sha256
from common.storage import Storage, open_storage
from common.text import pluralize


@dataclass(frozen=True)
class Dataset:
    """The shards of a labeled data set, or some of them.

    Attributes:
        location: local folder or `s3://BUCKET/PREFIX`.
        shards: file names of the shards, sorted.
        sizes: number of samples of each shard.
        checksums: SHA-256 of each shard.
        classes: number of classes; None if the samples have no classes.
        checksum: SHA-256 that identifies the content: of the manifest, or of the shards' records if the data set is
            unfinished.
    """

    location: str
    shards: tuple[str, ...]
    sizes: tuple[int, ...]
    checksums: tuple[str, ...]
    classes: int | None
    checksum: str

    @property
    def samples(self) -> int:
        """The number of samples in all shards."""
        return sum(self.sizes)

    def class_names(self) -> list[str]:
        """Return the class names in the order of class indices.

        Raises UserError if they cannot be read, or if their number is not that of the manifest.
        """
        try:
            content = json.loads(open_storage(self.location).read(CLASSES))
            names = content if isinstance(content, list) else [content[str(index)] for index in range(len(content))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.location}/{CLASSES}: expected names by class index, 0, 1, ...: {describe_error(error)}"
            ) from None
        if len(names) != self.classes:
            raise UserError(f"{self.location}/{CLASSES}: expected {self.classes} classes, found {len(names)}")
        return names

    def select(self, indices: Sequence[int]) -> "Dataset":
        """Return a data set of some of the shards, by their indices, with a checksum of its own."""
        shards = tuple(self.shards[index] for index in indices)
        return replace(
            self,
            shards=shards,
            sizes=tuple(self.sizes[index] for index in indices),
            checksums=tuple(self.checksums[index] for index in indices),
            checksum=sha256(f"{self.checksum} {shards}".encode()),
        )


def split_shards(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split a data set at random into training shards and held-out shards.

    About `fraction` of the shards are held out, at least one and never all. Raises UserError if there are fewer than
    two shards.
    """
    if len(data.shards) < 2:
        raise UserError(f"{data.location}: expected two shards or more, to hold one out, found {len(data.shards)}")
    order = np.random.default_rng([seed, len(data.shards)]).permutation(len(data.shards)).tolist()
    held_out = min(max(round(fraction * len(order)), 1), len(order) - 1)
    return data.select(sorted(order[held_out:])), data.select(sorted(order[:held_out]))


def open_dataset(location: str, unfinished: bool = False) -> Dataset:
    """Open the labeled data set in a local folder or at `s3://BUCKET/PREFIX`.

    With `unfinished`, a data set without a manifest is opened too, from the records of its finished shards. Raises
    UserError if there is no data set, if it has another schema version, or if it holds no images.
    """
    storage = open_storage(location)
    try:
        content = storage.read(MANIFEST)
    except FileNotFoundError:
        return _open_unfinished(storage, unfinished)
    except OSError as error:
        raise UserError(f"{location}: expected the folder of a labeled data set: {error.strerror or error}") from None
    manifest = _parse_manifest(location, content)
    _check_images(location, manifest.include_images)
    shards = sorted(manifest.shards, key=lambda shard: shard.name)
    return Dataset(
        location,
        tuple(shard.name for shard in shards),
        tuple(shard.samples for shard in shards),
        tuple(shard.sha256 for shard in shards),
        manifest.classes,
        sha256(content),
    )


def _parse_manifest(location: str, content: bytes) -> Manifest:
    try:
        document = json.loads(content)
        version = document.get("schema_version") if isinstance(document, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(f"{location}/{MANIFEST}: expected schema version {SCHEMA_VERSION}, found {version!r}")
        return Manifest.model_validate(document)
    except ValueError as error:
        raise UserError(f"{location}/{MANIFEST}: not a manifest: {describe_error(error)}") from None


def _check_images(location: str, include_images: bool) -> None:
    if not include_images:
        raise UserError(f"{location}: a label-only data set, without images; label it with --include-images")


def _open_unfinished(storage: Storage, allowed: bool) -> Dataset:
    """Open a data set from the records of its finished shards. Raises UserError unless that is `allowed`."""
    names = [name for name in storage.list(RECORDS) if name.endswith(".json")]
    if not names:
        raise UserError(
            f"{storage.location}: expected a labeled data set, found no {MANIFEST} and no records; "
            f"make one: python -m labeler.run --input IMAGES --output {storage.location}"
        )
    if not allowed:
        raise UserError(
            f"{storage.location}: the data set is unfinished: it has {pluralize(len(names), 'shard')}, but no "
            f"{MANIFEST}; finish it with the labeler.run command that started it, or train on its finished shards with "
            "trainer.run --unfinished"
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
        tuple(record.sha256 for record in records),
        None if plan["classes"] is None else len(plan["classes"]),
        sha256("".join(record.sha256 for record in records).encode()),
    )
