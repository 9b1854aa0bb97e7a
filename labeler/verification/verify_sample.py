"""Verification of the files of one sample against the shard format."""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.errors import describe_error
from common.manifest import Manifest, Plan, canonical_json, sha256
from common.shards import MEMBERS, SampleInfo, decode_map, decode_points
from common.text import pluralize


class SampleRules(NamedTuple):
    """What all samples of a data set must conform to."""

    members: list[str]  # extensions in their order
    teacher: str  # identifier
    map_size: int
    gaze_threshold: float
    max_gaze_points: int | None  # None if it is unknown

    @classmethod
    def from_plan(cls, plan: Plan) -> "SampleRules":
        """Return the rules that a plan determines."""
        config, members = plan.config, _expect_members(plan.config.include_images, plan.classes is not None)
        return cls(members, plan.teacher.id, config.map_size, config.gaze_threshold, config.max_gaze_points)

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> "SampleRules":
        """Return the rules that a manifest determines, which does not state the settings of gaze points."""
        members = _expect_members(manifest.include_images, manifest.classes is not None)
        return cls(members, manifest.teacher.id, manifest.map_size, 0, None)


def find_header_problems(headers: Sequence[tarfile.TarInfo]) -> Iterator[str]:
    """Yield the problems of tar headers."""
    for header in headers:
        if (header.mtime, header.uid, header.gid, header.mode, header.uname) != (0, 0, 0, 0o444, ""):
            yield f"{header.name}: its tar header must have modification time 0, owner 0 and mode 0444"


def find_sample_problems(
    members: dict[str, bytes], rules: SampleRules, compare: Callable[[SampleInfo], Iterable[str]]
) -> Iterator[str]:
    """Yield the problems of a sample, whose files are given by extension.

    `compare` returns further problems of the content of its json.
    """
    if list(members) != rules.members:
        yield f"members {', '.join(members)}; expected {', '.join(rules.members)}"
        return
    try:
        info = SampleInfo.model_validate_json(members["json"])
        yield from compare(info)
        yield from _find_content_problems(members, info, rules)
    except Exception as error:  # decoders raise many types of exception for damaged bytes
        yield f"unreadable: {describe_error(error)}"


def _find_content_problems(members: dict[str, bytes], info: SampleInfo, rules: SampleRules) -> Iterator[str]:
    if canonical_json(info.model_dump(mode="json")) != members["json"]:
        yield "its json is not canonical"
    if info.teacher != rules.teacher:
        yield f"labeled by {info.teacher}, planned {rules.teacher}"
    if "jpg" in members:
        yield from _find_jpeg_problems(members["jpg"], info)
    yield from _find_map_problems(decode_map(members["attn.png"]), rules)
    yield from _find_point_problems(decode_points(members["gaze.npy"]), info, rules)


def _expect_members(images: bool, classes: bool) -> list[str]:
    present = {"jpg": images, "cls": classes}
    return [member for member in MEMBERS if present.get(member, True)]


def _find_jpeg_problems(jpeg: bytes, info: SampleInfo) -> Iterator[str]:
    if not info.reencoded_from and sha256(jpeg) != info.source_sha256:
        yield "its jpg does not have the source's bytes"
    image = Image.open(io.BytesIO(jpeg))
    if image.format not in ("JPEG", "MPO") or image.mode not in ("RGB", "L"):
        yield f"expected an RGB or grayscale JPEG, found {image.format} {image.mode}"
    if image.size != (info.width, info.height):
        yield f"{image.width} x {image.height} pixels, its json says {info.width} x {info.height}"


def _find_map_problems(attention: np.ndarray, rules: SampleRules) -> Iterator[str]:
    side = rules.map_size
    if attention.shape != (side, side):
        yield f"a map of shape {attention.shape}, expected {side} x {side}"
    elif attention.max() != 255:
        yield f"the map's maximum is {attention.max()}, expected 255"


def _find_point_problems(points: np.ndarray, info: SampleInfo, rules: SampleRules) -> Iterator[str]:
    if points.dtype != np.float32 or points.ndim != 2 or points.shape[1] != 3:
        yield f"points of {points.dtype} {points.shape}, expected float32 [n, 3]"
        return
    if len(points) != info.gaze_points:
        yield f"{pluralize(len(points), 'point')}, its json says {info.gaze_points}"
    elif rules.max_gaze_points is not None and len(points) > rules.max_gaze_points:
        yield f"{pluralize(len(points), 'point')}, expected at most {rules.max_gaze_points}"
    strengths = points[:, 2]
    if not ((points[:, :2] >= 0) & (points[:, :2] <= 1)).all():
        yield "points outside of the image"
    if not ((strengths >= np.float32(rules.gaze_threshold)) & (strengths <= 1)).all():
        yield f"point strengths outside of [{rules.gaze_threshold:g}, 1]"
    if (np.diff(strengths) > 0).any():
        yield "points not in descending order of strength"
