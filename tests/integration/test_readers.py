"""Tests that the tools of other teams can read a finished data set, and that the documented examples run."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from PIL import Image

from common.manifest import sha256
from common.storage import LocalStorage
from labeler.publishing.publish import publish
from labeler.verify import verify_dataset
from tests.support.data.pictures import encoded, exif, jpeg, photograph
from tests.support.jobs import (
    ROOT,
    command,
    environment,
    members,
    photographs,
    planned,
    planned_shard,
    run,
    shard_labeler,
)

MAP_SIZE = 96
REENCODED = "class1/png under a JPEG name.JPEG"


class FinishedDataset(NamedTuple):
    """A data set, and the bytes of its source images by URI."""

    folder: Path
    sources: dict[str, bytes]

    def shards(self) -> list[str]:
        return [str(path) for path in sorted(self.folder.glob("train-*.tar"))]

    def check(self, key: str, image: bytes, class_index: int, info: dict[str, Any]) -> str:
        """Compare a sample as read by any tool with its source. Returns the URI of the source."""
        source = self.sources[info["source"]]
        assert re.fullmatch(r"\d{9}", key)
        assert info["source"].split("/")[0] == f"class{class_index}" == info["wnid"]
        assert info["source_sha256"] == sha256(source)
        assert (info["reencoded_from"] != "") == (info["source"] == REENCODED)
        if info["source"] != REENCODED:
            assert image == source
        return info["source"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedDataset:
    """20 images of 3 classes in 3 shards, labeled without Ray. One is a PNG, and one has several dots in its name."""
    folder = tmp_path_factory.mktemp("readers")
    images, output = photographs(folder / "images", 18, classes=3), folder / "out"
    (images / REENCODED).write_bytes(encoded(photograph(), "PNG"))
    (images / "class2/many.dots.in.it.jpg").write_bytes(jpeg(seed=77))
    plan = planned(images, output, samples_per_shard=7, map_size=MAP_SIZE)
    labeler = shard_labeler(plan, output)
    for shard in range(plan.shards):
        labeler.label(shard)
    storage = LocalStorage(output)
    assert publish(storage, [plan], 0)[1]
    storage.sweep()
    return FinishedDataset(
        output, {path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.*")}
    )


def test_tarfile_and_numpy_can_read_it(finished: FinishedDataset) -> None:
    found = []
    for path in finished.shards():
        with tarfile.open(path) as tar:
            names = tar.getnames()
            for key in dict.fromkeys(name.split(".")[0] for name in names):
                extensions = ("jpg", "cls", "json", "attn.png", "gaze.npy")
                files = [tar.extractfile(f"{key}.{extension}") for extension in extensions]
                image, class_index, info_file, attention, points = files
                info = json.load(info_file)
                found.append(finished.check(key, image.read(), int(class_index.read()), info))
                assert Image.open(image).size == (info["width"], info["height"])
                assert Image.open(attention).size == (MAP_SIZE, MAP_SIZE)
                check_points(np.load(io.BytesIO(points.read()), allow_pickle=False), info)
    assert sorted(found) == sorted(finished.sources)


def check_points(points: np.ndarray, info: dict[str, Any]) -> None:
    assert points.dtype == np.float32
    assert points.shape == (info["gaze_points"], 3)
    assert ((points >= 0) & (points <= 1)).all()


def test_webdataset_can_read_it(finished: FinishedDataset) -> None:
    import webdataset

    raw = webdataset.WebDataset(finished.shards(), shardshuffle=False)
    found = [
        finished.check(sample["__key__"], sample["jpg"], int(sample["cls"]), json.loads(sample["json"]))
        for sample in raw
    ]
    assert sorted(found) == sorted(finished.sources)
    decoded = webdataset.WebDataset(finished.shards(), shardshuffle=False).decode("rgb8")
    tuples = decoded.to_tuple("jpg", "cls", "json", "attn.png", "gaze.npy")
    for image, class_index, info, attention, points in tuples:
        assert image.shape == (info["height"], info["width"], 3)
        assert f"class{class_index}" == info["wnid"]
        assert attention.shape[:2] == (MAP_SIZE, MAP_SIZE)
        assert attention.max() == 255
        check_points(points, info)


def test_hugging_face_datasets_can_read_it(finished: FinishedDataset, tmp_path: Path) -> None:
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    samples = load_dataset("webdataset", data_files=finished.shards(), split="train", cache_dir=str(tmp_path))
    found = []
    for sample in samples.cast_column("jpg", ImageFeature(decode=False)):
        info = sample["json"]
        found.append(finished.check(sample["__key__"], sample["jpg"]["bytes"], sample["cls"], info))
        assert sample["attn.png"].size == (MAP_SIZE, MAP_SIZE)
        check_points(np.asarray(sample["gaze.npy"], np.float32).reshape(-1, 3), info)
    assert sorted(found) == sorted(finished.sources)
    assert samples[0]["jpg"].size == (samples[0]["json"]["width"], samples[0]["json"]["height"])


def test_hugging_face_datasets_can_read_images_with_and_without_class(tmp_path: Path) -> None:
    from datasets import load_dataset

    images, output = photographs(tmp_path / "images", 20), tmp_path / "out"
    (images / "class0").mkdir()
    (images / "class0/inside.jpg").write_bytes(jpeg())
    plan = planned(images, output)
    assert [image.ref.uri for image in planned_shard(output)].index("class0/inside.jpg") >= 5
    shard_labeler(plan, output).label(0)
    shard = str(output / "train-000000.tar")
    samples = load_dataset("webdataset", data_files=[shard], split="train", cache_dir=str(tmp_path / "cache"))
    assert len(samples) == 21


@pytest.fixture
def ray_data() -> Iterator[Any]:
    import ray

    ray.init(address="local", log_to_driver=False, num_cpus=2)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray.data
    ray.shutdown()


def test_ray_data_can_read_it(ray_data: Any, finished: FinishedDataset) -> None:
    found = []
    for sample in ray_data.read_webdataset(finished.shards()).take_all():
        info = sample["json"]
        # Ray Data decodes images by default; decoder=None returns the bytes
        assert sample["jpg"].shape[:2] == (info["height"], info["width"])
        assert sample["attn.png"].shape[:2] == (MAP_SIZE, MAP_SIZE)
        check_points(sample["gaze.npy"], info)
        found.append(info["source"])
    assert sorted(found) == sorted(finished.sources)
    raw = ray_data.read_webdataset(finished.shards(), decoder=None).take_all()
    for sample in raw:
        finished.check(sample["__key__"], sample["jpg"], int(sample["cls"]), json.loads(sample["json"]))


def test_croissant_metadata_is_valid_and_its_records_can_be_read(
    finished: FinishedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # its cache identifies a tar by its name alone, and would return train-000000.tar of another data set
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path))
    import mlcroissant  # reads the variable

    croissant = mlcroissant.Dataset(jsonld=finished.folder / "croissant.json")
    assert not croissant.metadata.ctx.issues.errors
    assert all("datePublished" in warning for warning in croissant.metadata.ctx.issues.warnings)
    contents = {name: content for path in finished.shards() for name, content in members(Path(path)).items()}
    record_sets = {"images": "jpg", "maps": "attn.png", "points": "gaze.npy", "descriptions": "json", "classes": "cls"}
    for record_set, extension in record_sets.items():
        records = f"{record_set}-records"
        files = set()
        for record in croissant.records(records):
            name = os.path.basename(record[f"{records}/file"].decode())
            files.add(name)
            found = record[f"{records}/content"]
            if record_set in ("descriptions", "classes"):
                assert found == contents[name]
        assert files == {name for name in contents if name.partition(".")[2] == extension}, record_set


def test_examples_of_the_dataset_card_run(finished: FinishedDataset, tmp_path: Path) -> None:
    examples = python_examples(finished.folder / "README.md")
    assert len(examples) == 5
    run_examples(examples, finished.folder, tmp_path / "hf")


def test_local_examples_of_the_labelers_readme_run(finished: FinishedDataset, tmp_path: Path) -> None:
    examples = local_examples(finished.folder)
    assert len(examples) == 7
    run_examples(examples, tmp_path, tmp_path / "hf")


def test_readme_example_draws_rotated_images_upright_with_their_points(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = Image.new("RGB", (96, 64))
    image.paste((150, 150, 150), (8, 4, 40, 28))
    (tmp_path / "images/rotated.jpg").write_bytes(encoded(image, "JPEG", exif=exif(6)))
    plan = planned(tmp_path / "images", tmp_path / "out", max_gaze_points=1)
    shard_labeler(plan, tmp_path / "out").label(0)
    assert publish(LocalStorage(tmp_path / "out"), [plan], 0)[1]
    run_examples(
        [example for example in local_examples(tmp_path / "out") if "ImageDraw" in example], tmp_path, tmp_path / "hf"
    )
    drawn = np.asarray(Image.open(tmp_path / "attention.png"), int)
    assert drawn.shape == (96, 64, 3)
    stored = np.load(io.BytesIO(members(tmp_path / "out/train-000000.tar")["000000000.gaze.npy"]))[0]
    x, y = 1 - stored[1], stored[0]  # rotated clockwise by 90 degrees
    assert x > 0.55
    assert y < 0.4
    rows, columns = np.nonzero(drawn.sum(axis=2) > 750)  # the white circle
    assert np.hypot(columns / 64 - x, rows / 96 - y).max() < 0.06


def python_examples(page: Path) -> list[str]:
    """Return the Python code blocks of a Markdown page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def local_examples(folder: Path) -> list[str]:
    """Return the examples of the labeler's README that do not need S3, applied to a data set."""
    found = [example for example in python_examples(ROOT / "labeler/README.md") if "BUCKET" not in example]
    assert all('"DATASET"' in example for example in found)
    return [example.replace("DATASET", str(folder)) for example in found]


def run_examples(examples: list[str], folder: Path, cache: Path) -> None:
    """Run examples in parallel in a folder. Each must succeed and print something."""
    settings = environment(HF_HOME=str(cache), HF_HUB_OFFLINE="1")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", example],
            cwd=folder,
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for example in examples
    ]
    for example, process in zip(examples, running, strict=True):
        printed, errors = process.communicate(timeout=120)
        assert process.returncode == 0, f"{example}\n{errors}"
        assert printed, example


def test_published_teacher_labels_the_imagenet_sample(shared_data: Path, tmp_path: Path) -> None:
    """298 real photographs of as many classes make three shards, with every JPEG unchanged."""
    images, output = shared_data / "imagenet-sample", tmp_path / "out"
    teacher = shared_data / "attention-center/center.tflite"
    done = run(command(input=images, output=output, teacher=teacher, samples_per_shard=100))
    assert done.returncode == 0, done.stderr
    report = verify_dataset(str(output), workers=1)
    assert (report["ok"], report["complete"], report["samples"]) == (True, True, 298)
    assert list(json.loads((output / "sizes.json").read_bytes()).values()) == [100, 99, 99]
    assert len(json.loads((output / "classes.json").read_bytes())) == 298
    assert json.loads((output / "manifest.json").read_bytes())["teacher"]["name"] == "attention-center"
    for path in sorted(output.glob("*.tar")):
        content = members(path)
        for name in content:
            if name.endswith(".json"):
                info = json.loads(content[name])
                assert info["reencoded_from"] == "", info
                assert content[name.replace("json", "jpg")] == (images / info["source"]).read_bytes()
                assert 1 <= info["gaze_points"] <= 100
