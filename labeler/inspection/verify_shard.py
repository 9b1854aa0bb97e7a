"""Verification of one committed shard against its plan, its record and the shard format."""

import functools
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
from common.storage import open_storage
from common.text import pluralize
from labeler.inspection.reader import hash_file, open_for_two_passes
from labeler.inspection.verify_index import find_index_problems
from labeler.planning.generations import read_plans
from labeler.planning.listing import ListingReader, PlannedImage
from labeler.publishing.index import DatasetIndex, UnusableIndex, open_index

MAX_PROBLEMS_PER_CHECK = 5  # a badly damaged shard would otherwise fill the screen


class ShardChecker:
    """Checker of the shards of one data set, which reads the plans and opens the listings and the index only once."""

    def __init__(self, dataset: str) -> None:
        self.storage = open_storage(dataset)

    @functools.cached_property
    def listings(self) -> list[ListingReader]:
        """Readers of the listings of all generations."""
        return [ListingReader(self.storage, plan) for plan in read_plans(self.storage)]

    @functools.cached_property
    def index(self) -> DatasetIndex | None:
        """Reader of the index; None if there is none that belongs to the manifest."""
        try:
            return open_index(self.storage)
        except UnusableIndex:  # `find_published_problems` reports it
            return None

    def find_problems(self, shard: int) -> list[str]:
        """Return the problems of a shard that has a record, each with the name of the shard."""
        name = shard_name(shard)
        try:
            listing = next(listing for listing in self.listings if shard in listing.plan.shard_indices)
            record = ShardRecord.model_validate_json(self.storage.read(record_name(shard)))
            with open_for_two_passes(self.storage, name, record.bytes) as file:
                problems = list(_find_checksum_problems(file, record))
                file.seek(0)
                content_problems = _find_content_problems(file, listing.plan, record, listing.shard(shard))
                problems += itertools.islice(content_problems, MAX_PROBLEMS_PER_CHECK)
                if self.index and name in self.index.shards and not problems:
                    file.seek(0)
                    problems += find_index_problems(self.index, name, file)
        except FileNotFoundError:
            return []  # `verify_dataset` reports missing files
        except Exception as error:  # damaged files raise many types of exception
            return [f"{name}: cannot be checked: {describe_error(error)}"]
        return [f"{name}: {problem}" for problem in problems]


_checker: ShardChecker  # one per process


def initialize_checker(dataset: str) -> None:
    """Create the checker of this process."""
    global _checker
    _checker = ShardChecker(dataset)


def find_shard_problems(shard: int) -> list[str]:
    """Return the problems that this process's checker finds in a shard."""
    return _checker.find_problems(shard)


def _find_checksum_problems(file: BinaryIO, record: ShardRecord) -> Iterator[str]:
    digest, size = hash_file(file)
    if size != record.bytes:
        yield f"{size} bytes, its record says {record.bytes}"
    if digest != record.sha256:
        yield "its checksum is not the one in its record"


def _find_content_problems(
    file: BinaryIO, plan: Plan, record: ShardRecord, images: list[PlannedImage]
) -> Iterator[str]:
    """Compare the samples of a shard with the images planned for it, except those that its record lists as failed."""
    failed = {failure.key for failure in record.failed}
    expected = [image for image in images if image.key not in failed]
    if unplanned := failed - {image.key for image in images}:
        yield f"its record lists failed images that are not planned for it, {min(unplanned)} among them"
    if record.samples != len(expected):
        yield f"its record counts {pluralize(record.samples, 'sample')}, its plan and failures leave {len(expected)}"
    count = 0
    try:
        members = read_members(file)
        for key, group in itertools.groupby(members, key=lambda member: member[0].name.partition(".")[0]):
            sample = list(group)
            yield from _find_header_problems(sample)
            if count >= len(expected) or key != expected[count].key:
                planned = f"sample {expected[count].key}" if count < len(expected) else "the end of the shard"
                yield f"found sample {key} where {planned} is planned"
                return
            contents = {header.name.partition(".")[2]: content for header, content in sample}
            for problem in _find_sample_problems(contents, expected[count], plan):
                yield f"sample {key}: {problem}"
            count += 1
    except tarfile.TarError as error:
        yield f"not an intact tar file: {error}"
    if count != len(expected):
        yield f"{pluralize(count, 'sample')}, expected {len(expected)}"


def _find_header_problems(members: list[tuple[tarfile.TarInfo, bytes]]) -> Iterator[str]:
    for header, _ in members:
        if (header.mtime, header.uid, header.gid, header.mode, header.uname) != (0, 0, 0, 0o444, ""):
            yield f"{header.name}: its tar header must have modification time 0, owner 0 and mode 0444"


def _find_sample_problems(members: dict[str, bytes], image: PlannedImage, plan: Plan) -> Iterator[str]:
    absent = {"jpg"} if not plan.config.include_images else set()
    absent |= {"cls"} if plan.classes is None else set()
    expected = [member for member in MEMBERS if member not in absent]
    if list(members) != expected:
        yield f"members {', '.join(members)}; expected {', '.join(expected)}"
        return
    try:
        info = SampleInfo.model_validate_json(members["json"])
        yield from _find_info_problems(members, info, image, plan)
        if "jpg" in members:
            yield from _find_jpeg_problems(members["jpg"], info)
        yield from _find_map_problems(decode_map(members["attn.png"]), plan)
        yield from _find_point_problems(decode_points(members["gaze.npy"]), info, plan)
    except Exception as error:  # decoders raise many types of exception for damaged bytes
        yield f"unreadable: {describe_error(error)}"


def _find_info_problems(members: dict[str, bytes], info: SampleInfo, image: PlannedImage, plan: Plan) -> Iterator[str]:
    if canonical_json(info.model_dump(mode="json")) != members["json"]:
        yield "its json is not canonical"
    if (info.source, info.wnid) != (image.ref.uri, class_folder(image.ref.uri) or ""):
        yield f"made from {info.source}, planned from {image.ref.uri}"
    if info.teacher != plan.teacher.id:
        yield f"labeled by {info.teacher}, planned {plan.teacher.id}"
    if "cls" in members and members["cls"] != str(image.class_index).encode():
        yield f"class {members['cls']!r}, planned {image.class_index}"


def _find_jpeg_problems(jpeg: bytes, info: SampleInfo) -> Iterator[str]:
    if not info.reencoded_from and sha256(jpeg) != info.source_sha256:
        yield "its jpg does not have the source's bytes"
    image = Image.open(io.BytesIO(jpeg))
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        yield f"expected an RGB or grayscale JPEG, found {image.format} {image.mode}"
    if image.size != (info.width, info.height):
        yield f"{image.width} x {image.height} pixels, its json says {info.width} x {info.height}"


def _find_map_problems(attention: np.ndarray, plan: Plan) -> Iterator[str]:
    side = plan.config.map_size
    if attention.shape != (side, side):
        yield f"a map of shape {attention.shape}, expected {side} x {side}"
    elif attention.max() != 255:
        yield f"the map's maximum is {attention.max()}, expected 255"


def _find_point_problems(points: np.ndarray, info: SampleInfo, plan: Plan) -> Iterator[str]:
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 3:
        yield f"points of {points.dtype} {points.shape}, expected float32 [n, 3]"
        return
    if len(points) != info.gaze_points:
        yield f"{pluralize(len(points), 'point')}, its json says {info.gaze_points}"
    elif len(points) > plan.config.max_gaze_points:
        yield f"{pluralize(len(points), 'point')}, expected at most {plan.config.max_gaze_points}"
    strengths = points[:, 2]
    if not ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all():
        yield "points outside of the image"
    if not ((strengths >= np.float32(plan.config.gaze_threshold)) & (strengths <= 1)).all():
        yield f"point strengths outside of [{plan.config.gaze_threshold:g}, 1]"
    if (np.diff(strengths) > 0).any():
        yield "points not in descending order of strength"
