"""The sample: what one image becomes in a shard, written to and read from plain tar files."""

import hashlib
import io
import itertools
import tarfile
import threading
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from common.manifest import SCHEMA_VERSION, Document, canonical_json
from common.sources.tars import tar_headers

PNG_LEVEL = 1  # 16 KB a map; level 9 saves a tenth for ten times the time
# numpy parses a header as Python source, which two threads of Python 3.11 cannot do at once: "AST constructor recursion
# depth mismatch" (python/cpython#106905)
ONE_PARSER = threading.Lock()
MEMBERS = ("jpg", "cls", "json", "attn.png", "gaze.npy")  # in this order; jpg and cls may be absent throughout


class SampleInfo(Document):
    """The content of `<key>.json`. No value is null: readers that infer types from the first samples would trip."""

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    source: str = Field(description="the image's path, relative to the input")
    wnid: str = Field(
        description="the folder that held the image, the WordNet id in ImageNet; empty where there was none"
    )
    width: int = Field(gt=0, description="of the stored pixels")
    height: int = Field(gt=0, description="of the stored pixels")
    exif_orientation: int = Field(ge=1, le=8, description="how a viewer turns the stored pixels; 1 is upright")
    source_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="checksum of the source file's bytes")
    reencoded_from: str = Field(
        description="the source's format where the jpg is not the source's own bytes; empty where it is"
    )
    teacher: str = Field(description="name@checksum of the network that made the map")
    map_max: float = Field(description="the map's maximum before it was divided by it")
    gaze_points: int = Field(ge=0, description="rows of gaze.npy")


class Sample(NamedTuple):
    """One labelled image. `attention` is uint8 [S, S]; `gaze` float32 [n, 3] of x, y, strength."""

    key: str
    jpeg: bytes | None
    class_index: int | None
    info: SampleInfo
    attention: np.ndarray
    gaze: np.ndarray

    def members(self) -> dict[str, bytes]:
        """The files of this sample by extension, in their order."""
        members = {
            "jpg": self.jpeg,
            "cls": None if self.class_index is None else str(self.class_index).encode(),
            "json": canonical_json(self.info.model_dump(mode="json")),
            "attn.png": encode_map(self.attention),
            "gaze.npy": encode_points(self.gaze),
        }
        return {extension: content for extension, content in members.items() if content is not None}


class ShardWriter:
    """Write samples to a tar that depends on nothing but the samples: USTAR, mtime 0, owner 0, mode 0444.

    The checksum is taken on the way. `close` completes the tar but leaves the file open.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._hashing = _HashingFile(file)
        self._tar = tarfile.TarFile(fileobj=self._hashing, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]
        self.samples = 0

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Append one sample: its members by extension, in their order."""
        for extension, content in members.items():
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(content)
            header.mode = 0o444
            self._tar.addfile(header, io.BytesIO(content))
        self.samples += 1

    def close(self) -> None:
        """Write the end of the archive."""
        self._tar.close()

    @property
    def sha256(self) -> str:
        """Checksum of what was written so far."""
        return self._hashing.digest.hexdigest()

    @property
    def bytes(self) -> int:
        """Size of what was written so far."""
        return self._hashing.position


class _HashingFile:
    """The part of a file that tarfile writes through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.position = 0

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        self.position += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self.position


def read_members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The files of a shard with their headers, in order. Raises tarfile.ReadError on a damaged archive."""
    for header in tar_headers(file):
        file.seek(header.offset_data)
        yield header, file.read(header.size)


def read_samples(file: BinaryIO) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a shard, as key and members by extension. Raises tarfile.ReadError on a damaged archive."""
    members = ((*header.name.partition(".")[::2], content) for header, content in read_members(file))
    for key, group in itertools.groupby(members, key=lambda member: member[0]):
        yield key, {extension: content for _, extension, content in group}


def decode_sample(key: str, members: dict[str, bytes]) -> Sample:
    """The inverse of `Sample.members`. Raises KeyError, ValueError or Pillow's errors on missing or damaged members."""
    return Sample(
        key,
        members.get("jpg"),
        int(members["cls"]) if "cls" in members else None,
        SampleInfo.model_validate_json(members["json"]),
        decode_map(members["attn.png"]),
        decode_points(members["gaze.npy"]),
    )


def encode_map(attention: np.ndarray) -> bytes:
    """uint8 [S, S] -> PNG, 8-bit grey."""
    buffer = io.BytesIO()
    Image.fromarray(attention).save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def decode_map(content: bytes) -> np.ndarray:
    """PNG -> uint8 [S, S]. Raises ValueError where it is not 8-bit grey."""
    image = Image.open(io.BytesIO(content))
    if image.format != "PNG" or image.mode != "L":
        raise ValueError(f"expected an 8-bit grey PNG, found {image.format} {image.mode}")
    return np.asarray(image)


def encode_points(points: np.ndarray) -> bytes:
    """float32 [n, 3] -> npy, version 1.0, no pickle."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(points, np.float32), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode_points(content: bytes) -> np.ndarray:
    """npy -> the array. Raises ValueError where it is not one."""
    with ONE_PARSER:
        return np.load(io.BytesIO(content), allow_pickle=False)
