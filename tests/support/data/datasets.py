"""Labeled data sets for the trainer's tests, written without the labeler.

Each image shows a disc on noise. The disc's color is the class, and its center is the only gaze point.
"""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from common.fixations.maps import blur_fixations
from common.manifest import CLASSES, MANIFEST, Manifest, ShardEntry, Teacher, sha256, shard_name
from common.shards import Sample, SampleInfo, ShardWriter
from tests.support.data.pictures import encoded

TEACHER = Teacher(name="tests", sha256="0" * 64)
COLORS = ("red", "lime", "blue", "yellow", "magenta", "cyan")
MAP_SIZE = 32
MAP_SIGMA = 3.0  # of the attention maps, in pixels


def disc_sample(index: int, classes: int | None, width: int = 64, height: int = 48, radius: float = 0.2) -> Sample:
    """Make a sample from its index: a disc of its class's color at a random position on dark gray noise.

    `classes` is the number of classes; with None the sample has no class index, and the colors repeat. `radius` is a
    fraction of the height.
    """
    generator = np.random.default_rng(index)
    x, y = generator.uniform(0.25, 0.75, 2)
    label = index % (classes or len(COLORS))
    noise = generator.integers(60, 120, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    center_x, center_y, pixels = x * width, y * height, int(radius * height)
    box = (center_x - pixels, center_y - pixels, center_x + pixels, center_y + pixels)
    ImageDraw.Draw(image).ellipse(box, fill=COLORS[label])
    attention = blur_fixations(np.array([[x, y]]), MAP_SIZE, MAP_SIZE, MAP_SIGMA)
    info = SampleInfo(
        source=f"{label}/{index}.jpg",
        wnid=str(label),
        width=width,
        height=height,
        exif_orientation=1,
        source_sha256="0" * 64,
        reencoded_from="",
        teacher=TEACHER.id,
        map_max=0.5,
        gaze_points=1,
    )
    stored_map = (attention / attention.max() * 255).round().to(torch.uint8).numpy()
    points = np.array([[x, y, 1.0]], np.float32)
    jpeg = encoded(image, "JPEG", quality=90)
    return Sample(f"{index:09d}", jpeg, None if classes is None else label, info, stored_map, points)


def shard_bytes(samples: list[Sample]) -> bytes:
    """Return the content of a shard with these samples."""
    file = io.BytesIO()
    writer = ShardWriter(file)
    for sample in samples:
        writer.add(sample.key, sample.members())
    writer.close()
    return file.getvalue()


def make_dataset(folder: Path, sizes: list[int], classes: int | None = 4, radius: float = 0.2, first: int = 0) -> Path:
    """Write a complete data set of discs, with `sizes` samples in its shards, and return its folder.

    The disc images are numbered from `first` across all shards.
    """
    indices = itertools.count(first)
    shards = [[disc_sample(next(indices), classes, radius=radius) for _ in range(size)] for size in sizes]
    return write_dataset(folder, shards, classes)


def write_dataset(folder: Path, shards: list[list[Sample]], classes: int | None) -> Path:
    """Write a complete data set with the given samples in its shards, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, samples in enumerate(shards):
        content, name = shard_bytes(samples), shard_name(index)
        (folder / name).write_bytes(content)
        entries.append(ShardEntry(name=name, sha256=sha256(content), bytes=len(content), samples=len(samples)))
    samples_written = sum(entry.samples for entry in entries)
    manifest = Manifest(
        generation=0,
        parent=None,
        fingerprint="0" * 64,
        teacher=TEACHER,
        map_size=len(shards[0][0].attention),
        include_images=True,
        classes=classes,
        planned=samples_written,
        written=samples_written,
        failed=0,
        failures={},
        bytes=sum(entry.bytes for entry in entries),
        shards=entries,
    )
    (folder / MANIFEST).write_bytes(manifest.to_json())
    if classes is not None:
        (folder / CLASSES).write_text(json.dumps({str(index): COLORS[index] for index in range(classes)}))
    return folder


def overwrite_member(folder: Path, shard: str, key: str, extension: str, pattern: bytes = b"\0") -> None:
    """Overwrite the content of one member of a shard, in place and at its size, with a repeated pattern."""
    path = folder / shard
    content = bytearray(path.read_bytes())
    header = content.index(f"{key}.{extension}".encode())
    size = int(content[header + 124 : header + 135], 8)  # the field `size` of a tar header, in octal
    content[header + 512 : header + 512 + size] = (pattern * size)[:size]
    path.write_bytes(bytes(content))
