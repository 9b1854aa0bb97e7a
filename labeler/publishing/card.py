"""The data set card: the `README.md` of a data set, for users who do not have this code."""

from common.manifest import Manifest, Plan
from common.text import pluralize
from labeler.publishing.card_metadata import make_metadata

CARD_TEMPLATE = """---
{metadata}---

# Photographs with predicted human attention

{photographs}, each with a map of where people are expected to look, and with the gaze points of the map: the
centers of the Gaussians that it is decomposed into. A teacher network predicted the maps, as in Yao et al.,
*Teacher-generated spatial-attention labels boost robustness and accuracy of contrastive models*, CVPR 2023. They are
predictions, not recordings of eye movements.

| | |
|---|---|
| samples | {written:,} of {planned:,} planned; {failed:,} skipped{reasons}, listed in `failures.jsonl` |
| shards | {shards}, {size} |
| images | {images} |
| classes | {classes} |
| teacher | `{teacher}`, sha256 `{teacher_sha256}` |
| maps | 8-bit grayscale PNG, {map_size} x {map_size}, covering the whole image; each map is divided by its maximum |
| gaze points | float32 [n, 3]: x and y in [0, 1], strength in [{threshold:g}, 1] |
| plan fingerprint | `{fingerprint}` |

The photographs keep the licenses of their sources. This data set grants no rights to them.

## Files of a sample

{members}

Maps and points refer to the stored pixels, before any rotation by the EXIF orientation. `sizes.json` lists the number
of samples of each shard, which varies because images were skipped; `manifest.json` also lists the checksums.

## Index

`index.parquet`, which old data sets may lack, has one row per sample: `key`, `source`, `wnid`, `class`, `shard`,
`source_sha256`, `width` and `height` in pixels, `exif_orientation`, `reencoded_from`, `map_max` as in the json,
`map_mean` (mean of the stored map, where its maximum is 1), `map_area` (fraction of the frame that the map spreads
over: the exponential of its entropy, divided by its number of pixels), `gaze_points` (their number), `phash`
(perceptual hash PDQ of the upright image in hexadecimal, null if unknown), and, for each file of the sample, where its
content lies in the shard: `jpg_offset` and `jpg_size`, and the same with `cls_`, `json_`, `attn_png_` and `gaze_npy_`,
in bytes, null for absent files. Its Parquet metadata has the SHA-256 of the `manifest.json` that it belongs to as
`manifest_sha256`.

The maps of the images with most gaze points, without reading the other samples:
```python
import pyarrow.parquet as pq

rows = pq.read_table("index.parquet").sort_by([("gaze_points", "descending")])
for row in rows.slice(0, 3).to_pylist():
    with open(row["shard"], "rb") as shard:
        shard.seek(row["attn_png_offset"])
        png = shard.read(row["attn_png_size"])
    print(row["source"], row["gaze_points"], len(png))
```

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

`load_dataset(FOLDER, split="train")` reads all shards in the folder, or in a repository on the Hub that holds it.
{timm}
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

IMAGES_INCLUDED = (
    "original bytes of the source files; images that are not RGB or grayscale JPEGs are converted to JPEG, and "
    "`reencoded_from` in their json names the original format"
)
IMAGES_EXCLUDED = "not included; `source` and `source_sha256` in the json identify the image of each label"

UNDECODED_EXAMPLE = """# as bytes: decoding would rotate images by their EXIF orientation, and the maps would not match
samples = samples.cast_column("jpg", Image(decode=False))
"""

TIMM_EXAMPLE = """
With timm, whose `train.py` reads the folder as it is:
```bash
python train.py --dataset wds/ --data-dir . --val-split "" --model resnet50 --num-classes {classes}
```
"""


def make_card(plan: Plan, manifest: Manifest) -> str:
    """Return the card as Markdown. `plan` is the last plan of the data set."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.failures.items())
    return CARD_TEMPLATE.format(
        metadata=make_metadata(manifest),
        photographs=pluralize(manifest.written, "photograph"),
        written=manifest.written,
        planned=manifest.planned,
        failed=manifest.failed,
        reasons=f" ({reasons})" if reasons else "",
        shards=pluralize(len(manifest.shards), "tar file"),
        size=f"{manifest.bytes / 1e9:.2f} GB" if manifest.bytes >= 1e9 else f"{manifest.bytes / 1e6:.1f} MB",
        images=IMAGES_INCLUDED if manifest.include_images else IMAGES_EXCLUDED,
        classes=f"{manifest.classes:,}, named in `classes.json`" if manifest.classes else "none",
        teacher=manifest.teacher.id,
        teacher_sha256=manifest.teacher.sha256,
        map_size=manifest.map_size,
        threshold=plan.config.gaze_threshold,
        fingerprint=manifest.fingerprint,
        members="\n".join(f"- `{member}`: {meaning}" for member, meaning in _describe_members(manifest)),
        image_import="Image, " if manifest.include_images else "",
        undecoded=UNDECODED_EXAMPLE if manifest.include_images else "",
        timm=TIMM_EXAMPLE.format(classes=manifest.classes) if manifest.include_images and manifest.classes else "",
        rgb_line='sample["jpg"].shape, ' if manifest.include_images else "",
    )


def _describe_members(manifest: Manifest) -> list[tuple[str, str]]:
    members = []
    if manifest.include_images:
        members.append(("<key>.jpg", "photograph"))
    if manifest.classes:
        members.append(("<key>.cls", "class index as ASCII digits"))
    return [
        *members,
        ("<key>.json", "source, size, orientation, checksum and teacher; `schema.json` is its JSON schema"),
        ("<key>.attn.png", "attention map, 255 where people are expected to look most"),
        ("<key>.gaze.npy", "gaze points, strongest first: x from the left, y from the top, strength"),
    ]
