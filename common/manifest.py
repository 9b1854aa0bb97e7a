"""The files of a data set other than its shards: their names, and the contents of plans, records and the manifest."""

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
TIMM_INFO = "_info.json"
SCHEMA = "schema.json"
CLASSES = "classes.json"
CARD = "README.md"
CROISSANT = "croissant.json"
PROGRESS = "progress.json"
RECORDS = "records"
INDEX = "index.parquet"
INDEX_PARTS = "index"


MapEncoder = Literal["isal", "pillow"]


class Document(BaseModel):
    """Base of the JSON documents in a data set: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """Return human-readable JSON: indented, with keys in the order of the fields."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()


class Teacher(Document):
    """Identity of the network that predicts the attention maps: its name and the checksum of its definition."""

    name: str
    sha256: str

    @property
    def id(self) -> str:
        """Return the identifier stored in every sample: `name@` and the first 12 digits of the checksum."""
        return f"{self.name}@{self.sha256[:12]}"


class LabelConfig(BaseModel):
    """The settings that, together with the images and the teacher, determine the bytes of the shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples_per_shard: int = Field(1000, ge=1, le=1_000_000, description="maximum number of images planned per shard")
    map_size: int = Field(224, ge=8, le=4096, description="side of the stored square attention maps in pixels")
    seed: int = Field(0, ge=0, lt=2**32, description="random seed of the shuffle that distributes images over shards")
    limit: int | None = Field(None, ge=1, description="label only this many images, drawn at random with the seed")
    include_images: bool = Field(True, description="store the images in the shards, not only their labels")
    gaze_threshold: float = Field(
        0.2, gt=0, le=1, description="minimum strength of a gaze point, as a fraction of the map's maximum"
    )
    max_gaze_points: int = Field(200, ge=1, description="maximum number of gaze points per image")
    max_pixels: int = Field(100_000_000, ge=1, description="images with more pixels are skipped (too_large)")
    min_side: int = Field(8, ge=1, description="images with a side of fewer pixels are skipped (too_small)")
    batch_size: int | None = Field(
        None,
        ge=1,
        description="images per forward pass of the teacher on a GPU, by default as in the data set or, for a new one, "
        "64; a CPU, whose caches hold one image, processes them one by one",
    )
    map_encoder: MapEncoder | None = Field(
        None,
        description="how the PNGs of the attention maps are compressed: isal is the faster one, pillow that of earlier "
        "versions; by default as in the data set or, for a new one, isal",
    )

    @property
    def is_of_earlier_version(self) -> bool:
        """Whether the plan is of a version that did not state the map encoder, whose shards have other bytes."""
        return self.map_encoder is None

    def for_fingerprint(self) -> dict[str, Any]:
        """Return the settings as JSON values, without those that plans of earlier versions do not have."""
        settings = self.model_dump(mode="json")
        if self.is_of_earlier_version:
            del settings["map_encoder"]
        return settings


class Plan(Document):
    """The plan of a labeling job, fixed before labeling starts. The listing next to the plan names the images.

    The first plan of a data set is generation 0. Each further plan, for images that are retried or were added, is the
    next generation, and continues the numbering of shards and keys.
    """

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    generation: int = 0
    parent: str | None = Field(None, description="fingerprint of the previous generation's plan; null for the first")
    first_shard: int = 0
    first_image: int = 0
    input: str = Field(description="location of the images, as the user named it")
    config: LabelConfig
    teacher: Teacher
    images: int
    bytes: int
    shards: int
    classes: list[str] | None = Field(description="folder names by class index; null if the input has no classes")
    listing_sha256: str = Field(description="checksum of the listing: the images' uris, sizes and offsets in tar files")
    fingerprint: str = Field(description="checksum of everything that determines the bytes of the shards")

    @property
    def name(self) -> str:
        """Return the file name of this plan."""
        return plan_name(self.generation)

    @property
    def listing(self) -> str:
        """Return the file name of the listing of this plan's images."""
        return LISTING if self.generation == 0 else f"listing-{self.generation:04d}.parquet"

    @property
    def shard_indices(self) -> range:
        """Return the indices of this generation's shards, counted through all generations."""
        return range(self.first_shard, self.next_shard)

    @property
    def next_shard(self) -> int:
        """Return the index of the next generation's first shard."""
        return self.first_shard + self.shards

    @property
    def next_image(self) -> int:
        """Return the number of the next generation's first image, from which its key is made."""
        return self.first_image + self.images

    def shard_sizes(self) -> list[int]:
        """Return the planned number of samples of each shard. The numbers differ by at most one."""
        return split_evenly(self.images, self.shards)


class Failure(Document):
    """An image that could not be labeled and is not in the data set: a line of `failures.jsonl`."""

    key: str
    uri: str
    reason: Reason
    message: str


class ShardRecord(Document):
    """Record of a committed shard: its content, its failed images, and how long it took on which machine."""

    shard: str
    sha256: str
    bytes: int
    samples: int
    failures: dict[Reason, int] = Field(description="number of failed images by reason")
    failed: list[Failure]
    seconds: dict[str, float] = Field(description="time by phase; fetch, decode and encode are summed over threads")
    host: str
    device: str
    attempt: int


class ShardEntry(Document):
    """A shard in the manifest's list."""

    name: str
    sha256: str
    bytes: int
    samples: int


class Manifest(Document):
    """Summary of a complete data set. Readers need only this file and the shards.

    It is written last, so its presence means that the data set is complete.
    """

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    generation: int = Field(description="generation of the last plan that is included")
    parent: str | None = Field(description="SHA-256 of the previous generation's manifest; null for the first")
    fingerprint: str = Field(description="fingerprint of the last plan")
    teacher: Teacher
    map_size: int
    include_images: bool
    classes: int | None = Field(description="number of classes, whose names are in classes.json; null without classes")
    planned: int = Field(description="number of planned images; an image that was retried counts once")
    written: int = Field(description="number of samples in the shards")
    failed: int = Field(description="number of planned images without a sample")
    failures: dict[Reason, int] = Field(description="number of images without a sample by reason")
    bytes: int = Field(description="total size of the shards")
    shards: list[ShardEntry]


def canonical_json(value: Any) -> bytes:
    """Encode a value as the unique JSON with sorted keys, without spaces, in UTF-8. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256(content: bytes) -> str:
    """Return the SHA-256 of the content in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def plan_name(generation: int) -> str:
    """Return the file name of a generation's plan: `plan.json`, `plan-0001.json`, ..."""
    return PLAN if generation == 0 else f"plan-{generation:04d}.json"


def shard_name(index: int) -> str:
    """Return the file name of a shard, such as `train-000000.tar`."""
    return f"train-{index:06d}.tar"


def record_name(index: int) -> str:
    """Return the path of a shard's record within the data set."""
    return f"{RECORDS}/train-{index:06d}.json"


def index_part_name(shard: str) -> str:
    """Return the path within the data set of the rows of the index for a shard, given by its file name."""
    return f"{INDEX_PARTS}/{shard.removesuffix('.tar')}.parquet"


def split_evenly(items: int, parts: int) -> list[int]:
    """Return the sizes of parts that differ by at most one, larger parts first."""
    size, larger = divmod(items, max(parts, 1))
    return [size + (part < larger) for part in range(parts)]
