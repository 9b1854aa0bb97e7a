"""Samples that violate the format, in shards whose checksums match their records: only the content shows it."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.manifest import ShardRecord, canonical_json, sha256
from common.shards import ShardWriter, decode_map, decode_points, encode_map, encode_points, read_samples
from labeler.verify import verify_dataset
from tests.support.data.pictures import jpeg
from tests.support.jobs import photographs, planned, shard_labeler

TAR, RECORD = "train-000000.tar", "records/train-000000.json"
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    images = photographs(folder / "images", 6, classes=2)
    shard_labeler(planned(images, folder / "out", map_size=32), folder / "out").label(0)
    assert verify_dataset(str(folder / "out"), workers=1)["problems"] == []
    return folder / "out"


def change_json(**changes: object) -> Callable[[Members], None]:
    def change(sample: Members) -> None:
        sample["json"] = canonical_json(json.loads(sample["json"]) | changes)

    return change


def change_map(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Members], None]:
    return lambda sample: sample.update({"attn.png": encode_map(change(decode_map(sample["attn.png"]).copy()))})


def change_points(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Members], None]:
    return lambda sample: sample.update({"gaze.npy": encode_points(change(decode_points(sample["gaze.npy"]).copy()))})


def remove_class(sample: Members) -> None:
    del sample["cls"]


def indent_json(sample: Members) -> None:
    sample["json"] = json.dumps(json.loads(sample["json"]), indent=1).encode()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (change_json(source="class0/another.jpg"), "made from class0/another.jpg, planned from"),
        (change_json(teacher="another@0"), "labeled by another@0, planned tests@"),
        (change_json(width=3), "3 x"),
        (change_json(gaze_points=77), "points, its json says 77"),
        (indent_json, "its json is not canonical"),
        (lambda sample: sample.update(cls=b"7"), "class b'7', planned"),
        (lambda sample: sample.update(jpg=jpeg(80, 60, seed=99)), "its jpg does not have the source's bytes"),
        (lambda sample: sample.update({"attn.png": b"no map"}), "unreadable"),
        (change_map(lambda attention: attention // 2), "the map's maximum is 127, expected 255"),
        (change_map(lambda attention: attention[1:]), "a map of shape (31, 32), expected 32 x 32"),
        (change_points(lambda points: points * [[2, 1, 1]]), "points outside of the image"),
        (change_points(lambda points: points * [[1, 1, 0.01]]), "point strengths outside of [0.2, 1]"),
        (change_points(lambda points: np.repeat(points, 2, 0)[::-1] * [[1, 1, 1]]), "points, its json says"),
        (remove_class, "members jpg, json, attn.png, gaze.npy; expected jpg, cls, json"),
    ],
)
def test_a_sample_that_violates_the_format_is_named(
    dataset: Path, tmp_path: Path, change: Callable[[Members], None], problem: str
) -> None:
    output = tmp_path / "out"
    shutil.copytree(dataset, output)
    samples = dict(read_samples(io.BytesIO((output / TAR).read_bytes())))
    key = list(samples)[2]
    change(samples[key])
    rewrite(output, samples)
    [first, *_] = verify_dataset(str(output), workers=1)["problems"]
    assert first.startswith(f"{TAR}: sample {key}: ")
    assert problem in first


def test_a_missing_sample_is_reported(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(dataset, output)
    samples = dict(read_samples(io.BytesIO((output / TAR).read_bytes())))
    lost = list(samples)[2]
    del samples[lost]
    rewrite(output, samples)
    [problem, *_] = verify_dataset(str(output), workers=1)["problems"]
    assert f"where sample {lost} is planned" in problem


def test_checkpoints_among_the_shards_are_reported_and_files_of_the_user_are_not(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(dataset, output)
    for name in ("preview.html", "LICENSE", "train-000000.tar.idx", "notes/mine.txt", "checkpoints/last"):
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).write_bytes(b"1")
    report = verify_dataset(str(output), workers=1)
    assert not report["ok"]
    [problem] = report["problems"]
    assert problem.startswith("checkpoints/last: belongs to a training run, which may have replaced README.md; move")


def rewrite(output: Path, samples: dict[str, Members]) -> None:
    """Write the shard again with these samples, and update the checksum and size in its record."""
    file = io.BytesIO()
    writer = ShardWriter(file)
    for key, sample in samples.items():
        writer.add(key, sample)
    writer.close()
    content = file.getvalue()
    (output / TAR).write_bytes(content)
    record = ShardRecord.model_validate_json((output / RECORD).read_bytes())
    updated = record.model_copy(update={"sha256": sha256(content), "bytes": len(content)})
    (output / RECORD).write_bytes(updated.to_json())
