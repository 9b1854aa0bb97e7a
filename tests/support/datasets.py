"""Labelled data sets for the trainer's tests: discs whose colour is the class, and people look at the disc."""

import io
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from common.fixation_maps import blur_fixations
from common.manifest import CLASSES, MANIFEST, Manifest, ShardEntry, Teacher, sha256, shard_name
from common.shards import Sample, SampleInfo, ShardWriter
from tests.support.pictures import encoded

TEACHER = Teacher(name="tests", sha256="0" * 64)
COLOURS = ("red", "lime", "blue", "yellow", "magenta", "cyan")
MAP_SIZE = 32


def disc_sample(index: int, classes: int | None, width: int = 64, height: int = 48, radius: float = 0.2) -> Sample:
    """Sample `index`: a disc of its class's colour somewhere on a noisy ground; its radius is a share of the height."""
    generator = np.random.default_rng(index)
    x, y = generator.uniform(0.25, 0.75, 2)
    label = index % (classes or len(COLOURS))
    ground = generator.integers(60, 120, (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(ground)
    reach = int(radius * height)
    box = (x * width - reach, y * height - reach, x * width + reach, y * height + reach)
    ImageDraw.Draw(image).ellipse(box, fill=COLOURS[label])
    attention = blur_fixations(np.array([[x, y]]), MAP_SIZE, MAP_SIZE, 3.0)
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
    grey = (attention / attention.max() * 255).round().to(torch.uint8).numpy()
    points = np.array([[x, y, 1.0]], np.float32)
    jpeg = encoded(image, "JPEG", quality=90)
    return Sample(f"{index:09d}", jpeg, None if classes is None else label, info, grey, points)


def shard_bytes(samples: list[Sample]) -> bytes:
    """A shard with these samples."""
    file = io.BytesIO()
    writer = ShardWriter(file)
    for sample in samples:
        writer.add(sample.key, sample.members())
    writer.close()
    return file.getvalue()


def make_dataset(folder: Path, sizes: list[int], classes: int | None = 4, radius: float = 0.2, first: int = 0) -> Path:
    """A finished data set with so many samples in its shards, the discs from `first` on."""
    numbers = itertools.count(first)
    shards = [[disc_sample(next(numbers), classes, radius=radius) for _ in range(size)] for size in sizes]
    return keep_dataset(folder, shards, classes)


def keep_dataset(folder: Path, shards: list[list[Sample]], classes: int | None) -> Path:
    """A finished data set with these samples in its shards."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, samples in enumerate(shards):
        content, name = shard_bytes(samples), shard_name(index)
        (folder / name).write_bytes(content)
        entries.append(ShardEntry(name=name, sha256=sha256(content), bytes=len(content), samples=len(samples)))
    number = sum(entry.samples for entry in entries)
    manifest = Manifest(
        generation=0,
        parent=None,
        fingerprint="0" * 64,
        teacher=TEACHER,
        map_size=len(shards[0][0].attention),
        include_images=True,
        classes=classes,
        planned=number,
        written=number,
        failed=0,
        failures={},
        bytes=sum(entry.bytes for entry in entries),
        shards=entries,
    )
    (folder / MANIFEST).write_bytes(manifest.to_json())
    if classes is not None:
        (folder / CLASSES).write_text(json.dumps({str(number): COLOURS[number] for number in range(classes)}))
    return folder


def spoil(folder: Path, name: str, key: str, member: str, wrong: bytes = b"\0") -> None:
    """Overwrite a sample's member with something wrong, again and again, in place."""
    path = folder / name
    content = bytearray(path.read_bytes())
    at = content.index(f"{key}.{member}".encode())
    size = int(content[at + 124 : at + 135], 8)
    content[at + 512 : at + 512 + size] = (wrong * size)[:size]
    path.write_bytes(bytes(content))
