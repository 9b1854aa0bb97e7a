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


class LabelConfig(BaseModel):
    """The settings that, with the images and the teacher, decide the bytes of the shards: `config` of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_shard: int = Field(1000, ge=1, le=1_000_000, description="images planned for a shard, at most")
    map_size: int = Field(224, ge=8, le=4096, description="side of the stored square attention maps, in pixels")
    seed: int = Field(0, ge=0, lt=2**32, description="of the shuffle that deals the images to the shards")
    limit: int | None = Field(None, ge=1, description="label only so many images, drawn by the seed")
    include_images: bool = Field(True, description="store the images too; without them a label-only data set is made")
    gaze_threshold: float = Field(0.2, gt=0, le=1, description="gaze points end below this share of the map's maximum")
    max_gaze_points: int = Field(200, ge=1, description="gaze points of an image, at most")
    max_pixels: int = Field(100_000_000, ge=1, description="larger images are left out (too_large)")
    min_side: int = Field(8, ge=1, description="images with a shorter side are left out (too_small)")
    batch_size: int | None = Field(
        None, ge=1, description="images in one pass of the teacher; by default 1 on a CPU (caches), 32 on a GPU"
    )


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
    config: LabelConfig
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
        return split_evenly(self.images, self.shards)


class Failure(Document):
    """An image that was left out: a line of `failures.jsonl`."""

    key: str
    uri: str
    reason: Reason
    message: str


class ShardRecord(Document):
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


def split_evenly(items: int, parts: int) -> list[int]:
    """Deal items to parts evenly, to within one; the larger parts first."""
    size, larger = divmod(items, max(parts, 1))
    return [size + (part < larger) for part in range(parts)]
