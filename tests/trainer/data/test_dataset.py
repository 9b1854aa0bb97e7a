import json

import pytest

from common.errors import UserError
from common.manifest import MANIFEST, Failure, ShardRecord, record_name
from tests.support.data.datasets import make_dataset
from trainer.data.dataset import open_dataset, split_shards


def change_manifest(folder, **values):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_shards_and_their_sizes_come_from_the_manifest(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path, [3, 5, 2])))
    assert data.shards == ("train-000000.tar", "train-000001.tar", "train-000002.tar")
    assert (data.sizes, data.samples, data.classes) == ((3, 5, 2), 10, 4)
    assert data.class_names() == ["red", "lime", "blue", "yellow"]


def test_checksum_differs_between_data_sets(tmp_path):
    first, same, other = (make_dataset(tmp_path / name, sizes) for name, sizes in (("a", [3]), ("b", [3]), ("c", [4])))
    assert open_dataset(str(first)).checksum == open_dataset(str(same)).checksum != open_dataset(str(other)).checksum


def test_empty_folder_is_rejected(tmp_path):
    with pytest.raises(UserError, match=r"found no manifest\.json and no records; make one: python -m labeler\.run"):
        open_dataset(str(tmp_path))


def test_other_schema_version_is_rejected(tmp_path):
    change_manifest(make_dataset(tmp_path, [3]), schema_version="2.0")
    with pytest.raises(UserError, match=r"expected schema version 1\.0, found '2\.0'"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema_version": "1.0"}'])
def test_invalid_manifest_is_rejected(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        open_dataset(str(tmp_path))


def test_data_set_without_images_is_rejected(tmp_path):
    change_manifest(make_dataset(tmp_path, [3]), include_images=False)
    with pytest.raises(UserError, match="a label-only data set, without images"):
        open_dataset(str(tmp_path))


def test_unfinished_data_set_is_opened_only_on_request(tmp_path):
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
    with pytest.raises(UserError, match="the data set is unfinished: it has 1 shard, but no"):
        open_dataset(str(tmp_path))
    data = open_dataset(str(tmp_path), unfinished=True)
    assert (data.shards, data.sizes, data.classes) == (("train-000001.tar",), (4,), 4)
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"config": {"include_images": False}}))
    with pytest.raises(UserError, match="a label-only data set, without images"):
        open_dataset(str(tmp_path), unfinished=True)


def test_shards_are_split_at_random_by_the_seed(tmp_path):
    data = open_dataset(str(make_dataset(tmp_path / "ten", [1] * 10)))
    training, held_out = split_shards(data, 0.2, 0)
    assert (len(training.shards), len(held_out.shards), training.samples) == (8, 2, 8)
    assert {*training.shards, *held_out.shards} == set(data.shards)
    assert split_shards(data, 0.2, 0) == (training, held_out)
    assert {split_shards(data, 0.2, seed)[1].shards for seed in range(5)} != {held_out.shards}
    assert len({data.checksum, training.checksum, held_out.checksum}) == 3
    with pytest.raises(UserError, match="expected two shards or more"):
        split_shards(open_dataset(str(make_dataset(tmp_path / "one", [2]))), 0.2, 0)
