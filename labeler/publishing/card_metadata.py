"""Metadata of the data set card: the YAML by which the Hugging Face Hub and `datasets` find and decode the samples."""

from typing import Any

import yaml

from common.manifest import Manifest
from common.shards import SampleInfo

SHARDS = "train-*.tar"
SIZE_CATEGORIES = (  # of the Hub, with the number of samples below which they apply
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
LARGEST_CATEGORY = "10M<n<100M"
VALUE_TYPES: dict[Any, str] = {int: "int64", float: "float64"}  # of the fields of the json member; others are strings
LICENSE_COMMENT = "# license: add that of the photographs before you publish this data set\n"


def make_metadata(manifest: Manifest) -> str:
    """Return the metadata as YAML, without the lines that separate it from the card.

    The types of the columns are part of it, because `datasets` would infer them from the first five samples, and fail
    later if none of these has gaze points.
    """
    categories = [name for limit, name in SIZE_CATEGORIES if manifest.written < limit] or [LARGEST_CATEGORY]
    metadata = {
        "pretty_name": "ImageNet-Attn",
        "task_categories": [*(["image-classification"] if manifest.classes else []), "image-feature-extraction"],
        "tags": ["saliency", "human-attention", "webdataset"],
        "size_categories": [categories[0]],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": SHARDS}]}],
        "dataset_info": {"features": _make_features(manifest)},
    }
    return LICENSE_COMMENT + yaml.safe_dump(metadata, sort_keys=False)


def _make_features(manifest: Manifest) -> list[dict[str, Any]]:
    """Return the columns that `datasets` makes of a sample, in its notation."""
    info = [
        {"name": name, "dtype": VALUE_TYPES.get(field.annotation, "string")}
        for name, field in SampleInfo.model_fields.items()
    ]
    return [
        *([{"name": "jpg", "dtype": "image"}] if manifest.include_images else []),
        *([{"name": "cls", "dtype": "int64"}] if manifest.classes else []),
        {"name": "json", "struct": info},
        {"name": "attn.png", "dtype": "image"},
        {"name": "gaze.npy", "list": {"list": "float32"}},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
