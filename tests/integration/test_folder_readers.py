"""Tests that Hugging Face datasets and timm read the folder of a data set as it is, given its location only."""

import io
import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import numpy as np
import pytest
import timm.data
from PIL import Image

from common.manifest import sha256
from tests.support.documents import python_example
from tests.support.jobs import ROOT, photographs
from tests.support.labeled import make_dataset, read_samples

COLUMNS = ["jpg", "cls", "json", "attn.png", "gaze.npy", "__key__", "__url__"]


def load(folder: Path, cache: Path, **options: Any) -> Any:
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(cache), **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_hugging_face_datasets_load_the_folder(labeled: Path, tmp_path: Path, streaming: bool) -> None:
    found = load(labeled, tmp_path, streaming=streaming)
    assert list(found.features) == COLUMNS
    samples = read_samples(labeled)
    keys = []
    for row in found.cast_column("jpg", datasets.Image(decode=False)):
        files = samples[row["__key__"]]
        assert row["jpg"]["bytes"] == files["jpg"]
        assert (row["cls"], row["json"]) == (int(files["cls"]), json.loads(files["json"]))
        assert np.array_equal(row["attn.png"], Image.open(io.BytesIO(files["attn.png"])))
        assert np.array_equal(np.array(row["gaze.npy"], np.float32), np.load(io.BytesIO(files["gaze.npy"])))
        keys.append(row["__key__"])
    assert keys == list(samples)


@pytest.mark.parametrize(("classes", "include_images"), [(2, True), (0, True), (2, False)])
def test_column_types_in_the_card_are_those_that_datasets_infers(
    classes: int, include_images: bool, tmp_path: Path
) -> None:
    images = photographs(tmp_path / "images", 6, classes)
    folder = make_dataset(images, tmp_path / "out", include_images=include_images)
    shards = [str(path) for path in folder.glob("*.tar")]
    inferred = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True).features
    assert load(folder, tmp_path / "cache", streaming=True).features == inferred
    assert ("jpg" in inferred, "cls" in inferred) == (include_images, classes > 0)


def test_hugging_face_datasets_load_a_folder_whose_first_samples_have_no_gaze_points(tmp_path: Path) -> None:
    """Without the column types in the card, `datasets` takes the points for nulls, and fails at the first point."""
    folder = make_dataset(photographs(tmp_path / "images", 9), tmp_path / "out", max_gaze_points=1)
    [shard] = folder.glob("*.tar")
    content, samples = bytearray(shard.read_bytes()), read_samples(folder)
    for key in list(samples)[:6]:
        # the header of an array of shape (0, 3) is as long as that of (1, 3)
        start = content.index(f"{key}.gaze.npy".encode()) + 512
        content[start : start + 128] = content[start : start + 128].replace(b"(1, 3)", b"(0, 3)")
    shard.unlink()
    shard.write_bytes(content)
    assert [len(points) for points in load(folder, tmp_path / "cache")["gaze.npy"]] == [0] * 6 + [1] * 3


@pytest.mark.parametrize("is_training", [False, True])
def test_timm_reads_every_sample_with_its_class(labeled: Path, is_training: bool) -> None:
    samples = read_samples(labeled).values()
    found = timm.data.create_dataset("wds/", root=str(labeled), split="train", is_training=is_training, batch_size=10)
    assert len(found) == len(samples) == 60
    expected = sorted((sha256(np.asarray(Image.open(io.BytesIO(s["jpg"])))), int(s["cls"])) for s in samples)
    assert sorted((sha256(np.asarray(image)), class_index) for image, class_index in found) == expected


def test_timm_validates_on_the_shards_of_another_data_set(labeled: Path, tmp_path: Path) -> None:
    """As the guide's --val-split does; a data set itself has the split `train` only."""
    other = make_dataset(photographs(tmp_path / "images", 12, classes=3), tmp_path / "VAL", samples_per_shard=5)
    split = f"{other}/train-{{000000..000002}}.tar|12"
    found = timm.data.create_dataset("wds/", root=str(labeled), split=split)
    assert len(found) == 12
    assert sorted(class_index for _, class_index in found) == sorted([0, 1, 2] * 4)
    with pytest.raises(RuntimeError, match=r"split validation not found in info \(dict_keys\(\['train'\]\)\)"):
        timm.data.create_dataset("wds/", root=str(labeled), split="validation")


def test_example_of_hugging_face_datasets_runs(labeled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heading = "Hugging Face datasets and the Hub"
    exec(python_example(ROOT / "labeler/CONSUMERS.md", heading, DATASET=str(labeled)), {})
    assert len(capsys.readouterr().out.splitlines()) == 3
