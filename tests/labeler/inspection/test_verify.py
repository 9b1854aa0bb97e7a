"""Samples that are not as promised, in shards whose records and checksums fit: only their content tells."""

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
from tests.support.jobs import photographs, planned, shard_labeler
from tests.support.pictures import jpeg

TAR, RECORD = "train-000000.tar", "records/train-000000.json"
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    images = photographs(folder / "images", 6, classes=2)
    shard_labeler(planned(images, folder / "out", map_size=32), folder / "out").label(0)
    assert verify_dataset(str(folder / "out"), workers=1)["problems"] == []
    return folder / "out"


def changed_json(**changes: object) -> Callable[[Members], None]:
    def change(sample: Members) -> None:
        sample["json"] = canonical_json(json.loads(sample["json"]) | changes)

    return change


def changed_map(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Members], None]:
    return lambda sample: sample.update({"attn.png": encode_map(change(decode_map(sample["attn.png"]).copy()))})


def changed_points(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Members], None]:
    return lambda sample: sample.update({"gaze.npy": encode_points(change(decode_points(sample["gaze.npy"]).copy()))})


def without_class(sample: Members) -> None:
    del sample["cls"]


def spelt_otherwise(sample: Members) -> None:
    sample["json"] = json.dumps(json.loads(sample["json"]), indent=1).encode()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (changed_json(source="class0/another.jpg"), "made from class0/another.jpg, planned from"),
        (changed_json(teacher="another@0"), "labelled by another@0, planned tests@"),
        (changed_json(width=3), "3 x"),
        (changed_json(gaze_points=77), "points, its json says 77"),
        (spelt_otherwise, "its json is not canonical"),
        (lambda sample: sample.update(cls=b"7"), "class b'7', planned"),
        (lambda sample: sample.update(jpg=jpeg(80, 60, seed=99)), "its jpg is not the source's bytes"),
        (lambda sample: sample.update({"attn.png": b"no map"}), "unreadable"),
        (changed_map(lambda attention: attention // 2), "the map's maximum is 127, expected 255"),
        (changed_map(lambda attention: attention[1:]), "a map of (31, 32), expected 32 x 32"),
        (changed_points(lambda points: points * [[2, 1, 1]]), "points outside of the image"),
        (changed_points(lambda points: points * [[1, 1, 0.01]]), "point strengths outside of their range"),
        (changed_points(lambda points: np.repeat(points, 2, 0)[::-1] * [[1, 1, 1]]), "points, its json says"),
        (without_class, "members jpg, json, attn.png, gaze.npy; expected jpg, cls, json"),
    ],
)
def test_a_sample_that_is_not_as_promised_is_named(
    sound: Path, tmp_path: Path, change: Callable[[Members], None], problem: str
) -> None:
    output = tmp_path / "out"
    shutil.copytree(sound, output)
    samples = dict(read_samples(io.BytesIO((output / TAR).read_bytes())))
    key = list(samples)[2]
    change(samples[key])
    rewrite(output, samples)
    [found, *_] = verify_dataset(str(output), workers=1)["problems"]
    assert found.startswith(f"{TAR}: sample {key}: ")
    assert problem in found


def test_a_sample_that_is_not_there_is_missed(sound: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(sound, output)
    samples = dict(read_samples(io.BytesIO((output / TAR).read_bytes())))
    lost = list(samples)[2]
    del samples[lost]
    rewrite(output, samples)
    [found, *_] = verify_dataset(str(output), workers=1)["problems"]
    assert f"where {lost} is planned" in found


def rewrite(output: Path, samples: dict[str, Members]) -> None:
    """The shard anew, with these samples, and its record to fit."""
    file = io.BytesIO()
    writer = ShardWriter(file)
    for key, sample in samples.items():
        writer.add(key, sample)
    writer.close()
    content = file.getvalue()
    (output / TAR).write_bytes(content)
    record = ShardRecord.model_validate_json((output / RECORD).read_bytes())
    fitting = record.model_copy(update={"sha256": sha256(content), "bytes": len(content)})
    (output / RECORD).write_bytes(fitting.to_json())
