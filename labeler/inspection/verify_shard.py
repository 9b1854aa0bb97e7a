"""Does one committed shard hold exactly the samples it should, each as the format says?"""

import functools
import hashlib
import io
import itertools
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from common.errors import describe_error
from common.manifest import Plan, ShardRecord, canonical_json, record_name, sha256, shard_name
from common.shards import MEMBERS, SampleInfo, decode_map, decode_points, read_members
from common.sources.listing import class_folder
from common.storage import Storage, open_storage
from labeler.planning.generations import read_plans
from labeler.planning.listing import ListingReader, PlannedImage

SHOWN = 5  # problems of one shard; a damaged one would fill the screen
IN_MEMORY = 1 << 30  # bytes of a shard that is fetched once; a larger one is read twice


class ShardChecker:
    """Checks shard after shard of a data set: its plans and listings are opened once."""

    def __init__(self, dataset: str) -> None:
        self.storage = open_storage(dataset)

    @functools.cached_property
    def listings(self) -> list[ListingReader]:
        """Of all generations."""
        return [ListingReader(self.storage, plan) for plan in read_plans(self.storage)]

    def problems(self, shard: int) -> list[str]:
        """What is wrong with a shard that has a record; empty where nothing is."""
        name = shard_name(shard)
        try:
            listing = next(listing for listing in self.listings if shard in listing.plan.shard_indices)
            record = ShardRecord.model_validate_json(self.storage.read(record_name(shard)))
            with _fetched(self.storage, name, record.bytes) as file:
                problems = list(itertools.islice(_checksum_problems(file, record), SHOWN))
                file.seek(0)
                found = _content_problems(file, listing.plan, record, listing.shard(shard))
                problems += itertools.islice(found, SHOWN)
        except FileNotFoundError:
            return []  # said of the data set as a whole
        except Exception as error:  # damage takes many shapes
            return [f"{name}: cannot be checked: {describe_error(error)}"]
        return [f"{name}: {problem}" for problem in problems]


checker: ShardChecker  # of a process that does nothing else


def start_checking(dataset: str) -> None:
    """Make this process's checker."""
    global checker
    checker = ShardChecker(dataset)


def shard_problems(shard: int) -> list[str]:
    """What this process's checker finds."""
    return checker.problems(shard)


def _fetched(storage: Storage, name: str, size: int) -> BinaryIO:
    return io.BytesIO(storage.read(name)) if size < IN_MEMORY else storage.open(name)


def _checksum_problems(file: BinaryIO, record: ShardRecord) -> Iterator[str]:
    digest, size = hashlib.sha256(), 0
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
    if size != record.bytes:
        yield f"{size} bytes, its record says {record.bytes}"
    if digest.hexdigest() != record.sha256:
        yield "its checksum is not the one in its record"


def _content_problems(file: BinaryIO, plan: Plan, record: ShardRecord, images: list[PlannedImage]) -> Iterator[str]:
    failed = {failure.key for failure in record.failed}
    expected = [image for image in images if image.key not in failed]
    if strangers := failed - {image.key for image in images}:
        yield f"failures of images that it was not to hold: {sorted(strangers)[0]}"
    if record.samples != len(expected):
        yield f"its record counts {record.samples} samples, its plan and failures leave {len(expected)}"
    found = 0
    try:
        members = read_members(file)
        for key, group in itertools.groupby(members, key=lambda member: member[0].name.partition(".")[0]):
            sample = list(group)
            yield from _header_problems(sample)
            if found >= len(expected) or key != expected[found].key:
                yield f"sample {key} where {expected[found].key if found < len(expected) else 'the end'} is planned"
                return
            contents = {header.name.partition(".")[2]: content for header, content in sample}
            yield from (f"sample {key}: {problem}" for problem in _sample_problems(contents, expected[found], plan))
            found += 1
    except tarfile.TarError as error:
        yield f"not a sound tar file: {error}"
    if found != len(expected):
        yield f"{found} samples, expected {len(expected)}"


def _header_problems(members: list[tuple[tarfile.TarInfo, bytes]]) -> Iterator[str]:
    for header, _ in members:
        if (header.mtime, header.uid, header.gid, header.mode, header.uname) != (0, 0, 0, 0o444, ""):
            yield f"{header.name}: its header holds a time, an owner or a mode of its own"


def _sample_problems(members: dict[str, bytes], image: PlannedImage, plan: Plan) -> Iterator[str]:
    absent = {"jpg"} if not plan.config.include_images else set()
    absent |= {"cls"} if plan.classes is None else set()
    expected = [member for member in MEMBERS if member not in absent]
    if list(members) != expected:
        yield f"members {', '.join(members)}; expected {', '.join(expected)}"
        return
    try:
        info = SampleInfo.model_validate_json(members["json"])
        yield from _info_problems(members, info, image, plan)
        if "jpg" in members:
            yield from _jpeg_problems(members["jpg"], info)
        yield from _map_problems(decode_map(members["attn.png"]), plan)
        yield from _points_problems(decode_points(members["gaze.npy"]), info, plan)
    except Exception as error:  # the decoders of damaged bytes raise what they like
        yield f"unreadable: {describe_error(error)}"


def _info_problems(members: dict[str, bytes], info: SampleInfo, image: PlannedImage, plan: Plan) -> Iterator[str]:
    if canonical_json(info.model_dump(mode="json")) != members["json"]:
        yield "its json is not canonical"
    if (info.source, info.wnid) != (image.ref.uri, class_folder(image.ref.uri) or ""):
        yield f"made from {info.source}, planned from {image.ref.uri}"
    if info.teacher != plan.teacher.id:
        yield f"labelled by {info.teacher}, planned {plan.teacher.id}"
    if "cls" in members and members["cls"] != str(image.class_index).encode():
        yield f"class {members['cls']!r}, planned {image.class_index}"


def _jpeg_problems(jpeg: bytes, info: SampleInfo) -> Iterator[str]:
    if not info.reencoded_from and sha256(jpeg) != info.source_sha256:
        yield "its jpg is not the source's bytes"
    picture = Image.open(io.BytesIO(jpeg))
    if picture.format not in ("JPEG", "MPO") or picture.mode not in ("RGB", "L"):
        yield f"expected an RGB or grey JPEG, found {picture.format} {picture.mode}"
    if picture.size != (info.width, info.height):
        yield f"{picture.width} x {picture.height} pixels, its json says {info.width} x {info.height}"


def _map_problems(attention: np.ndarray, plan: Plan) -> Iterator[str]:
    side = plan.config.map_size
    if attention.shape != (side, side):
        yield f"a map of {attention.shape}, expected {side} x {side}"
    elif attention.max() != 255:
        yield f"the map's maximum is {attention.max()}, expected 255"


def _points_problems(points: np.ndarray, info: SampleInfo, plan: Plan) -> Iterator[str]:
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 3:
        yield f"points of {points.dtype} {points.shape}, expected float32 [n, 3]"
        return
    if len(points) != info.gaze_points or len(points) > plan.config.max_gaze_points:
        yield f"{len(points)} points, its json says {info.gaze_points}"
    strengths = points[:, 2]
    if not ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all():
        yield "points outside of the image"
    if not ((strengths >= np.float32(plan.config.gaze_threshold)) & (strengths <= 1)).all():
        yield "point strengths outside of their range"
    if (np.diff(strengths) > 0).any():
        yield "points not in the order of their strength"
