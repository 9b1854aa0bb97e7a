"""Tests that the examples of labeler/CONSUMERS.md do what the page says, and need none of this project's code."""

import ast
import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.documents import blocks, python_example
from tests.support.jobs import ROOT
from tests.support.labeled import make_dataset, read_samples
from tests.support.s3_server import S3Server

PAGE = ROOT / "labeler/CONSUMERS.md"
WNID = "class1"


def run_example(heading: str, **placeholders: object) -> dict[str, Any]:
    """Run the example of a section in a namespace of its own, and return the namespace."""
    code = python_example(PAGE, heading, **{name: str(value) for name, value in placeholders.items()})
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, heading, "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def shared_bucket(labeled: Path, s3: S3Server) -> str:
    """A bucket that holds index and shards of the data set below `shards`."""
    bucket, client = s3.new_bucket(), s3.client()
    for path in [labeled / "index.parquet", *labeled.glob("*.tar")]:
        client.upload_file(str(path), bucket, f"shards/{path.name}")
    return bucket


@pytest.fixture
def labeled_bucket(shared_bucket: str, s3_environment: dict[str, str]) -> str:
    """The bucket of the data set, to which this process's AWS variables lead."""
    return shared_bucket


def test_examples_import_none_of_this_projects_code() -> None:
    examples = [code for language, code in blocks(PAGE) if language == "python"]
    imported = set(re.findall(r"^(?:import|from) (\w+)", "\n".join(examples), re.MULTILINE))
    assert {"pyarrow", "boto3", "torch", "datasets", "timm"} <= imported
    assert not imported & {"common", "labeler", "trainer", "tests"}


def test_query_over_s3_finds_the_samples_of_a_class_with_many_gaze_points(labeled: Path, labeled_bucket: str) -> None:
    found = run_example("Find samples", BUCKET=labeled_bucket, PREFIX="shards", n02123045=WNID)["samples"]
    samples = {key: files for key, files in read_samples(labeled).items() if json.loads(files["json"])["wnid"] == WNID}
    points = {key: len(np.load(io.BytesIO(files["gaze.npy"]))) for key, files in samples.items()}
    expected = {key: count for key, count in points.items() if count > 20}
    assert 0 < len(expected) < len(points)
    assert dict(zip(found["key"].to_pylist(), found["gaze_points"].to_pylist(), strict=True)) == expected


@pytest.mark.parametrize("position", [0, 41])
def test_range_read_fetches_one_map_from_s3(labeled: Path, labeled_bucket: str, position: int) -> None:
    samples = read_samples(labeled)
    key = sorted(samples)[position]
    placeholders = {"000000000": key, "BUCKET": labeled_bucket, "PREFIX": "shards"}
    run = run_example("Fetch one map", **placeholders)
    info = json.loads(samples[key]["json"])
    stored = Image.open(io.BytesIO(samples[key]["attn.png"]))
    assert run["answer"]["ContentLength"] == len(samples[key]["attn.png"])
    assert (run["row"]["source"], run["attention"].size) == (info["source"], (info["width"], info["height"]))
    assert np.array_equal(run["attention"], stored.resize((info["width"], info["height"])))


def test_label_only_set_is_joined_to_images_with_other_names(images: Path, tmp_path: Path) -> None:
    """The folder lacks one labeled image, has one twice, and has a file without a label."""
    labels = make_dataset(images, tmp_path / "labels", include_images=False)
    own = tmp_path / "own"
    own.mkdir()
    paths = sorted(images.rglob("*.jpg"))
    for number, path in enumerate(paths[1:]):
        shutil.copy(path, own / f"{number}.JPEG")
    shutil.copy(paths[1], own / "again.JPEG")
    (own / "list.txt").write_text("no image")
    joined = run_example("Join labels to your own ImageNet", IMAGENET=own, DATASET=labels)["joined"].to_pylist()
    sources = {key: json.loads(files["json"])["source"] for key, files in read_samples(labels).items()}
    assert len(joined) == len(paths) - 1
    assert {row["key"] for row in joined} == {key for key in sources if images / sources[key] != paths[0]}
    for row in joined:
        content = Path(row["path"]).read_bytes()
        assert content == (images / sources[row["key"]]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["source_sha256"]


def test_map_style_dataset_returns_every_sample(labeled: Path) -> None:
    dataset = run_example("A map-style PyTorch dataset", DATASET=labeled)["dataset"]
    samples = list(read_samples(labeled).values())
    assert isinstance(dataset, torch.utils.data.Dataset)
    assert len(dataset) == len(samples) == len(list(dataset))
    for (image, attention, class_index), files in zip(dataset, samples, strict=True):
        assert np.array_equal(image, Image.open(io.BytesIO(files["jpg"])).convert("RGB"))
        assert np.array_equal(attention, Image.open(io.BytesIO(files["attn.png"])))
        assert class_index == int(files["cls"])
    loader = torch.utils.data.DataLoader(dataset, batch_size=7, shuffle=True, collate_fn=list)
    assert sorted(sample[2] for batch in loader for sample in batch) == sorted(int(files["cls"]) for files in samples)


def test_map_style_dataset_has_at_most_twenty_lines() -> None:
    tree = ast.parse(python_example(PAGE, "A map-style PyTorch dataset"))
    [definition] = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    assert (definition.end_lineno or 0) - definition.lineno + 1 <= 20
