"""The data set card: `README.md` of a data set, for people who read the shards and never see this code."""

from common.manifest import Manifest, Plan

TEMPLATE = """---
pretty_name: ImageNet-Attn
task_categories: [image-classification, image-feature-extraction]
tags: [saliency, human-attention, webdataset]
---

# Photographs with where people look

{written:,} photographs, each with a map of where people would look and the gaze points that make it up, as predicted by
a teacher network (Yao et al., *Teacher-generated spatial-attention labels boost robustness and accuracy of contrastive
models*, CVPR 2023). The labels are predictions of a network, not recordings of people.

| | |
|---|---|
| samples | {written:,} of {planned:,} planned; {failed:,} left out{reasons}, listed in `failures.jsonl` |
| shards | {shards:,} tar files, {gigabytes:.2f} GB |
| images | {images} |
| classes | {classes} |
| teacher | `{teacher}`, sha256 `{teacher_sha256}` |
| maps | 8-bit grey PNG, {map_size} x {map_size}, the whole image frame, divided by their maximum |
| gaze points | float32 [n, 3]: x, y in [0, 1], strength in [{threshold:g}, 1] |
| fingerprint of the plan | `{fingerprint}` |

The photographs keep the licences of their source; nothing here grants rights to them.

## A sample

{members}

Maps and points lie in the frame of the stored pixels, as a decoder that ignores EXIF gives them. Shards differ in
length; `sizes.json` gives the counts, `manifest.json` their checksums.

## Loading

With webdataset:
```python
import json
import webdataset as wds

shards = [shard["name"] for shard in json.load(open("manifest.json"))["shards"]]
for sample in wds.WebDataset(shards, shardshuffle=False).decode("rgb8"):
    print(sample["__key__"], {rgb_line}sample["attn.png"].shape, sample["gaze.npy"].shape)
    break
```

With Hugging Face datasets:
```python
import json
from datasets import {image_import}load_dataset

shards = [shard["name"] for shard in json.load(open("manifest.json"))["shards"]]
samples = load_dataset("webdataset", data_files=shards, split="train", streaming=True)
{undecoded}print(next(iter(samples)))
```

With Ray Data:
```python
import ray

samples = ray.data.read_webdataset("train-000000.tar")
print(samples.take(1)[0]["json"])
```

With plain Python:
```python
import io, json, tarfile
import numpy as np

with tarfile.open("train-000000.tar") as tar:
    name = tar.getnames()[0].split(".")[0]
    info = json.load(tar.extractfile(f"{{name}}.json"))
    points = np.load(io.BytesIO(tar.extractfile(f"{{name}}.gaze.npy").read()))
print(info["source"], points)
```
"""


UNDECODED = """# as bytes: it would turn pictures by their EXIF, which then no longer match their maps
samples = samples.cast_column("jpg", Image(decode=False))
"""


def dataset_card(plan: Plan, manifest: Manifest) -> str:
    """The card as Markdown."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.failures.items())
    return TEMPLATE.format(
        written=manifest.written,
        planned=manifest.planned,
        failed=manifest.failed,
        reasons=f" ({reasons})" if reasons else "",
        shards=len(manifest.shards),
        gigabytes=manifest.bytes / 1e9,
        images="the sources' own bytes; the few that are no RGB or grey JPEGs are encoded anew, and their json says so"
        if manifest.include_images
        else "not included: `source` and `source_sha256` in the json say which image a label belongs to",
        classes=f"{manifest.classes:,}, named in `classes.json`" if manifest.classes else "none",
        teacher=manifest.teacher.id,
        teacher_sha256=manifest.teacher.sha256,
        map_size=manifest.map_size,
        threshold=plan.config.gaze_threshold,
        fingerprint=manifest.fingerprint,
        members="\n".join(f"- `{member}`: {meaning}" for member, meaning in _members(manifest)),
        image_import="Image, " if manifest.include_images else "",
        undecoded=UNDECODED if manifest.include_images else "",
        rgb_line='sample["jpg"].shape, ' if manifest.include_images else "",
    )


def _members(manifest: Manifest) -> list[tuple[str, str]]:
    members = []
    if manifest.include_images:
        members.append(("<key>.jpg", "the photograph"))
    if manifest.classes:
        members.append(("<key>.cls", "class index, ASCII"))
    return [
        *members,
        ("<key>.json", "source, size, orientation, checksum, teacher; described by `schema.json`"),
        ("<key>.attn.png", "where people look"),
        ("<key>.gaze.npy", "gaze points, strongest first"),
    ]
