import json

import pytest

from common.errors import UserError
from common.manifest import MANIFEST, Failure, ShardRecord, record_name
from tests.support.datasets import make_dataset
from trainer.data.dataset import open_dataset


def change(folder, **values):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_shards_and_true_sizes_come_from_the_manifest(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [3, 5, 2])))
    assert data.shards == ("train-000000.tar", "train-000001.tar", "train-000002.tar")
    assert (data.sizes, data.samples, data.classes) == ((3, 5, 2), 10, 4)
    assert data.class_names() == ["red", "lime", "blue", "yellow"]


def test_the_checksum_tells_two_data_sets_apart(tmp_path):
    first, same, other = (make_dataset(tmp_path / name, sizes) for name, sizes in (("a", [3]), ("b", [3]), ("c", [4])))
    assert open_dataset(str(first)).checksum == open_dataset(str(same)).checksum != open_dataset(str(other)).checksum


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match=r"found no manifest\.json and no records; make one: python -m labeler\.run"):
        open_dataset(str(tmp_path))


def test_another_schema_version(tmp_path):
    change(make_dataset(tmp_path, [3]), schema_version="2.0")
    with pytest.raises(UserError, match=r"expected schema version 1\.0, found '2\.0'"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema_version": "1.0"}'])
def test_what_is_not_a_manifest(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        open_dataset(str(tmp_path))


def test_labels_without_images(tmp_path):
    change(make_dataset(tmp_path, [3]), include_images=False)
    with pytest.raises(UserError, match="a label-only data set, without images"):
        open_dataset(str(tmp_path))


def test_an_unfinished_data_set_is_read_only_if_asked_for(tmp_path):
    make_dataset(tmp_path, [3, 4])
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).unlink()
    plan = {"classes": ["a", "b", "c", "d"], "config": {"include_images": True}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    entry = manifest["shards"][1]
    record = ShardRecord(
        shard=entry["name"],
        sha256=entry["sha256"],
        bytes=entry["bytes"],
        samples=entry["samples"],
        failures={},
        failed=list[Failure](),
        seconds={},
        host="here",
        device="cpu",
        attempt=1,
    )
    path = tmp_path / record_name(1)
    path.parent.mkdir()
    path.write_bytes(record.to_json())
    with pytest.raises(UserError, match="the data set is unfinished: 1 shards are there"):
        open_dataset(str(tmp_path))
    data = open_dataset(str(tmp_path), unfinished=True)
    assert (data.shards, data.sizes, data.classes) == (("train-000001.tar",), (4,), 4)
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"config": {"include_images": False}}))
    with pytest.raises(UserError, match="a label-only data set, without images"):
        open_dataset(str(tmp_path), unfinished=True)
