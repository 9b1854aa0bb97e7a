"""The files that describe a data set: plan, record of a shard, failure, manifest, and their canonical JSON."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.errors import Reason

SCHEMA_VERSION: Literal["1.0"] = "1.0"
PLAN = "plan.json"
LISTING = "listing.parquet"
MANIFEST = "manifest.json"
FAILURES = "failures.jsonl"
SIZES = "sizes.json"
SCHEMA = "schema.json"
CLASSES = "classes.json"
CARD = "README.md"
CROISSANT = "croissant.json"
PROGRESS = "progress.json"
RECORDS = "records"


class Document(BaseModel):
    """Base of what is written to a data set: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """Indented JSON, keys in the order of the fields, for files that people open too."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()


class Teacher(Document):
    """Which network made the maps: its name and the checksum of what defines it."""

    name: str
    sha256: str

    @property
    def id(self) -> str:
        """The teacher's name in every sample: `name@` and the first twelve digits of its checksum."""
        return f"{self.name}@{self.sha256[:12]}"


class Plan(Document):
    """What a labelling job will do, fixed before it starts; the images themselves are in the listing beside it.

    The first plan of a data set is generation 0. A later one (images tried again, or added) has shards and keys that
    follow those of the generation before.
    """

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    generation: int = 0
    parent: str | None = Field(None, description="fingerprint of the generation before; null for the first")
    first_shard: int = 0
    first_image: int = 0
    input: str = Field(description="where the images were listed, as the user named it")
    config: dict[str, Any] = Field(description="every setting that decides the bytes of the shards")
    teacher: Teacher
    images: int
    bytes: int
    shards: int
    classes: list[str] | None = Field(description="folder names by class index; null when the input has no classes")
    listing_sha256: str = Field(description="checksum over the listing's uris, sizes and positions")
    fingerprint: str = Field(description="checksum over all that decides the bytes")

    @property
    def name(self) -> str:
        """The file of this plan."""
        return plan_name(self.generation)

    @property
    def listing(self) -> str:
        """The file that lists this plan's images."""
        return LISTING if self.generation == 0 else f"listing-{self.generation:04d}.parquet"

    @property
    def shard_indices(self) -> range:
        """The shards of this generation, numbered through all generations."""
        return range(self.first_shard, self.next_shard)

    @property
    def next_shard(self) -> int:
        """Where the shards of the next generation begin."""
        return self.first_shard + self.shards

    @property
    def next_image(self) -> int:
        """Where the keys of the next generation begin."""
        return self.first_image + self.images

    def shard_sizes(self) -> list[int]:
        """Planned samples of each shard: even, to within one."""
        return even_sizes(self.images, self.shards)


class Failure(Document):
    """An image that was left out: a line of `failures.jsonl`."""

    key: str
    uri: str
    reason: Reason
    message: str


class Record(Document):
    """A committed shard: what it holds, what was left out, and how its making went."""

    shard: str
    sha256: str
    bytes: int
    samples: int
    failures: dict[Reason, int]
    failed: list[Failure]
    seconds: dict[str, float] = Field(description="time by phase; fetch, decode and encode are summed over threads")
    host: str
    device: str
    attempt: int


class ShardEntry(Document):
    """A shard, as the manifest lists it."""

    name: str
    sha256: str
    bytes: int
    samples: int


class Manifest(Document):
    """Written last: its presence says that the data set is complete. Readers need only this and the tars."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    generation: int = Field(description="of the last plan that it covers")
    parent: str | None = Field(description="sha256 of the manifest of the generation before; null for the first")
    fingerprint: str
    teacher: Teacher
    map_size: int
    include_images: bool
    classes: int | None = Field(description="number of classes; their names are in classes.json")
    planned: int
    written: int
    failed: int
    failures: dict[Reason, int]
    bytes: int
    shards: list[ShardEntry]


def canonical_json(value: Any) -> bytes:
    """One spelling for one value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def plan_name(generation: int) -> str:
    """`plan.json`, `plan-0001.json`, ..."""
    return PLAN if generation == 0 else f"plan-{generation:04d}.json"


def shard_name(index: int) -> str:
    """`train-000000.tar` for shard 0."""
    return f"train-{index:06d}.tar"


def record_name(index: int) -> str:
    """Where shard `index`'s record lies."""
    return f"{RECORDS}/train-{index:06d}.json"


def even_sizes(items: int, parts: int) -> list[int]:
    """Deal items to parts evenly, to within one; the larger parts first."""
    size, larger = divmod(items, max(parts, 1))
    return [size + (part < larger) for part in range(parts)]
