"""The samples of a shard: what a data set stores for one image, and how it is written to and read from tar files."""

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

from common.manifest import SCHEMA_VERSION, Document, MapEncoder, canonical_json
from common.png import encode_gray_png
from common.sources.tars import tar_headers

PILLOW_LEVEL = 1  # level 9 saves a tenth of the size and takes ten times as long
# numpy parses the header of an npy file as Python source, which two threads of Python 3.11 cannot do at the same time:
# "AST constructor recursion depth mismatch" (python/cpython#106905)
NPY_HEADER_LOCK = threading.Lock()
MEMBERS = ("jpg", "cls", "json", "attn.png", "gaze.npy")  # in this order; all jpg or all cls members may be absent


class SampleInfo(Document):
    """Content of `<key>.json`, the metadata of one sample.

    No value is null, so that readers that infer types from the first samples find one type per key.
    """

    schema_version: Literal["1.0"] = SCHEMA_VERSION
    source: str = Field(description="path of the source image, relative to the input")
    wnid: str = Field(
        description="name of the folder or tar file that contains the source image, in ImageNet the WordNet id of its "
        "class; empty if it is not in one"
    )
    width: int = Field(gt=0, description="width of the stored pixels, before the EXIF orientation is applied")
    height: int = Field(gt=0, description="height of the stored pixels, before the EXIF orientation is applied")
    exif_orientation: int = Field(
        ge=1, le=8, description="EXIF orientation that turns the stored pixels upright; 1 means that they are upright"
    )
    source_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the bytes of the source image")
    reencoded_from: str = Field(
        description='format and mode of the source image, such as "PNG RGBA", if the jpg was re-encoded from it; empty '
        "if the jpg is the source image itself"
    )
    teacher: str = Field(
        description="network that predicted the attention map: its name, @, and the first digits of its SHA-256"
    )
    map_max: float = Field(
        description="maximum of the attention map as predicted; attn.png stores the map divided by it"
    )
    gaze_points: int = Field(ge=0, description="number of gaze points, the rows of gaze.npy")


class Sample(NamedTuple):
    """One labeled image. All data is in the frame of the stored pixels."""

    key: str
    jpeg: bytes | None  # None in a data set without images
    class_index: int | None  # None in a data set without classes
    info: SampleInfo
    attention: np.ndarray  # uint8 [S, S], 255 at the maximum
    gaze: np.ndarray  # float32 [n, 3]: x, y and strength, each in [0, 1]

    @classmethod
    def from_members(cls, key: str, members: dict[str, bytes]) -> "Sample":
        """Decode the files of a sample, given by extension: the inverse of `members`.

        Raises KeyError if a file is missing, and ValueError or one of Pillow's exceptions if one is damaged.
        """
        return cls(
            key,
            members.get("jpg"),
            int(members["cls"]) if "cls" in members else None,
            SampleInfo.model_validate_json(members["json"]),
            decode_map(members["attn.png"]),
            decode_points(members["gaze.npy"]),
        )

    def members(self, map_encoder: MapEncoder | None = None) -> dict[str, bytes]:
        """Return the files of this sample by extension, in the order of `MEMBERS`."""
        members = {
            "jpg": self.jpeg,
            "cls": None if self.class_index is None else str(self.class_index).encode(),
            "json": canonical_json(self.info.model_dump(mode="json")),
            "attn.png": encode_map(self.attention, map_encoder),
            "gaze.npy": encode_points(self.gaze),
        }
        return {extension: content for extension, content in members.items() if content is not None}


class ByteRange(NamedTuple):
    """The bytes of a tar that hold the content of one of its files, without the header."""

    offset: int
    size: int


MemberRanges = dict[str, ByteRange]  # by extension


class ShardWriter:
    """Writer of samples to a tar file whose bytes depend only on the samples: USTAR, mtime 0, owner 0, mode 0444.

    Counts samples and bytes and computes the checksum while it writes. It only appends to the file, and does not close
    it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.samples = 0
        self.bytes = 0
        self._file = file
        self._digest = hashlib.sha256()

    def add(self, key: str, members: dict[str, bytes]) -> MemberRanges:
        """Append one sample: its files by extension, in this order. Returns where their contents lie in the tar."""
        ranges = {}
        for extension, content in members.items():
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(content)
            header.mode = 0o444
            self._write(header.tobuf(tarfile.USTAR_FORMAT))
            ranges[extension] = ByteRange(self.bytes, len(content))
            self._write(content)
            self._pad(tarfile.BLOCKSIZE)
        self.samples += 1
        return ranges

    def close(self) -> None:
        """Write the end-of-archive marker, which completes the tar file. Call it once."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._pad(tarfile.RECORDSIZE)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes written so far."""
        return self._digest.hexdigest()

    def _pad(self, multiple: int) -> None:
        self._write(bytes(-self.bytes % multiple))

    def _write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.bytes += len(content)


def read_members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Yield the header and content of each file of a shard, in order. Raises tarfile.ReadError on a damaged archive."""
    for header in tar_headers(file):
        file.seek(header.offset_data)
        yield header, file.read(header.size)


def read_samples(file: BinaryIO) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the key of each sample of a shard, and its files by extension.

    Raises tarfile.ReadError on a damaged archive.
    """
    for key, members, _ in read_located_samples(file):
        yield key, members


def read_located_samples(file: BinaryIO) -> Iterator[tuple[str, dict[str, bytes], MemberRanges]]:
    """Yield the key of each sample of a shard, its files by extension, and where their contents lie in the shard.

    Raises tarfile.ReadError on a damaged archive.
    """
    for key, sample in read_sample_members(file):
        members, ranges = dict[str, bytes](), MemberRanges()
        for header, content in sample:
            extension = header.name.partition(".")[2]
            members[extension], ranges[extension] = content, ByteRange(header.offset_data, header.size)
        yield key, members, ranges


def read_sample_members(file: BinaryIO) -> Iterator[tuple[str, list[tuple[tarfile.TarInfo, bytes]]]]:
    """Yield the key of each sample of a shard, and the tar headers and contents of its files.

    Raises tarfile.ReadError on a damaged archive.
    """
    for key, group in itertools.groupby(read_members(file), key=lambda member: member[0].name.partition(".")[0]):
        yield key, list(group)


def encode_map(attention: np.ndarray, encoder: MapEncoder | None = "isal") -> bytes:
    """Encode a map, uint8 [S, S], as an 8-bit gray PNG. None is the encoder of earlier versions, Pillow."""
    if encoder == "isal":
        return encode_gray_png(attention)
    buffer = io.BytesIO()
    Image.fromarray(attention).save(buffer, "PNG", compress_level=PILLOW_LEVEL)
    return buffer.getvalue()


def decode_map(content: bytes) -> np.ndarray:
    """Decode the PNG of a map to uint8 [S, S]. Raises ValueError or OSError if it is not an 8-bit gray PNG."""
    image = Image.open(io.BytesIO(content))
    if image.format != "PNG" or image.mode != "L":
        raise ValueError(f"expected an 8-bit gray PNG, found {image.format} {image.mode}")
    return np.asarray(image)


def encode_points(points: np.ndarray) -> bytes:
    """Encode points [n, 3] as an npy file of float32 (version 1.0, without pickle)."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(points, np.float32), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def decode_points(content: bytes) -> np.ndarray:
    """Decode an npy file. Raises ValueError if the content is not one, or contains pickled objects."""
    with NPY_HEADER_LOCK:
        return np.load(io.BytesIO(content), allow_pickle=False)
