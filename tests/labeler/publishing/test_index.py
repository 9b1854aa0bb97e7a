"""Tests of the index that publishing writes, read with pyarrow and compared with the tar files."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.manifest import sha256
from common.storage import LocalStorage
from labeler.planning.generations import read_plans
from labeler.publishing import index as dataset_index
from labeler.publishing.publish import publish
from tests.support.jobs import checksums, members, photographs, planned, shard_labeler
from tests.support.labeled import label_shards, make_dataset

INFO = ["source", "wnid", "source_sha256", "width", "height", "exif_orientation", "reencoded_from", "map_max"]
EXTENSIONS = ("jpg", "cls", "json", "attn.png", "gaze.npy")


class FailingStorage(LocalStorage):
    """A folder on a disk that fails when a file of this name is replaced."""

    failing = "index/train-000000.parquet"

    def replace_file(self, name: str, file: Any) -> None:
        if name == self.failing:
            raise OSError("the disk is gone")
        super().replace_file(name, file)


def read_index(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "index.parquet").to_pylist()


def check_against_tars(folder: Path) -> None:
    """Compare every value of the index with what tarfile, Pillow and NumPy read from the tars."""
    rows = read_index(folder)
    contents = {path.name: members(path) for path in sorted(folder.glob("*.tar"))}
    keys = [(tar, name.partition(".")[0]) for tar, files in contents.items() for name in files if ".json" in name]
    assert [(row["shard"], row["key"]) for row in rows] == keys
    for row in rows:
        files, key, tar = contents[row["shard"]], row["key"], (folder / row["shard"]).read_bytes()
        for extension in EXTENSIONS:
            column = extension.replace(".", "_")
            offset, size, content = row[f"{column}_offset"], row[f"{column}_size"], files.get(f"{key}.{extension}")
            assert (None if offset is None else tar[offset : offset + size]) == content
            assert (size is None) == (content is None)
        info = json.loads(files[f"{key}.json"])
        assert {name: row[name] for name in INFO} == {name: info[name] for name in INFO}
        assert row["class"] == (int(files[f"{key}.cls"]) if f"{key}.cls" in files else None)
        assert row["gaze_points"] == len(np.load(io.BytesIO(files[f"{key}.gaze.npy"])))
        attention = np.asarray(Image.open(io.BytesIO(files[f"{key}.attn.png"])), float)
        weights = attention[attention > 0] / attention.sum()
        assert row["map_mean"] == pytest.approx((attention / 255).mean())
        assert row["map_area"] == pytest.approx(np.exp(-(weights * np.log(weights)).sum()) / attention.size)
        assert re.fullmatch("[0-9a-f]{64}", row["phash"])


def test_rows_match_the_tar_files(varied_dataset: Path) -> None:
    check_against_tars(varied_dataset)


def test_label_only_data_sets_without_classes_have_an_index(tmp_path: Path) -> None:
    check_against_tars(make_dataset(photographs(tmp_path / "images", 3), tmp_path / "out", include_images=False))


def test_metadata_name_the_manifest_and_columns_have_the_documented_types(varied_dataset: Path) -> None:
    metadata = pq.read_metadata(varied_dataset / "index.parquet").metadata
    assert metadata[b"manifest_sha256"].decode() == sha256((varied_dataset / "manifest.json").read_bytes())
    schema = pq.read_schema(varied_dataset / "index.parquet")
    assert schema.metadata[b"manifest_sha256"] == metadata[b"manifest_sha256"]
    types: dict[str, set[str]] = {}
    for field in schema:
        types.setdefault(str(field.type), set()).add(field.name)
    assert types == {
        "string": {"key", "source", "wnid", "shard", "source_sha256", "reencoded_from", "phash"},
        "int32": {"class", "width", "height", "exif_orientation", "gaze_points"},
        "double": {"map_max", "map_mean", "map_area"},
        "int64": {f"{e.replace('.', '_')}_{part}" for e in EXTENSIONS for part in ("offset", "size")},
    }


def test_rows_of_several_groups_are_those_of_one(
    varied_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, copy = read_index(varied_dataset), shutil.copytree(varied_dataset, tmp_path / "copy")
    monkeypatch.setattr(dataset_index, "ROWS_PER_GROUP", 10)
    publish(LocalStorage(copy), read_plans(LocalStorage(copy)), 1)
    assert pq.read_metadata(copy / "index.parquet").num_row_groups > 1
    assert read_index(copy) == expected
    index = dataset_index.open_index(LocalStorage(copy))
    for start, stop in ((0, 1), (9, 10), (5, 25), (34, 35), (0, 35)):
        assert index.read_rows(start, stop).to_pylist() == expected[start:stop]
    for shard in index.shards:
        assert index.read_shard(shard).to_pylist() == [row for row in expected if row["shard"] == shard]


def test_run_stopped_between_a_shard_and_its_record_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 4)
    plans = [planned(images, tmp_path / name, map_size=20) for name in ("stopped", "whole")]
    label_shards(plans[1], tmp_path / "whole")
    labeler = shard_labeler(plans[0], tmp_path / "stopped")
    labeler.storage = FailingStorage(tmp_path / "stopped")
    with pytest.raises(OSError, match="the disk is gone"):
        labeler.label(0)
    assert (tmp_path / "stopped/train-000000.tar").exists()
    assert not (tmp_path / "stopped/records").exists(), "a shard with a record has a part of the index"
    label_shards(plans[0], tmp_path / "stopped")
    for name in ("stopped", "whole"):
        assert publish(LocalStorage(tmp_path / name), read_plans(LocalStorage(tmp_path / name)), 0)[1]
    assert checksums(tmp_path / "stopped") == checksums(tmp_path / "whole")
    assert "index/train-000000.parquet" in checksums(tmp_path / "whole")


def test_index_is_written_before_the_manifest(tmp_path: Path) -> None:
    plan = planned(photographs(tmp_path / "images", 2), tmp_path / "out", map_size=20)
    label_shards(plan, tmp_path / "out")
    storage = FailingStorage(tmp_path / "out")
    storage.failing = "index.parquet"
    with pytest.raises(OSError, match="the disk is gone"):
        publish(storage, [plan], 0)
    assert not storage.exists("manifest.json")
    assert publish(LocalStorage(tmp_path / "out"), [plan], 0)[1]


@pytest.mark.parametrize("part", ["missing", "damaged", "of another shard"])
def test_no_index_is_written_if_a_shard_has_no_sound_part(part: str, tmp_path: Path) -> None:
    plan = planned(photographs(tmp_path / "images", 4), tmp_path / "out", map_size=20, samples_per_shard=2)
    label_shards(plan, tmp_path / "out")
    path = tmp_path / "out/index/train-000001.parquet"
    content = {
        "damaged": path.read_bytes()[:-20],
        "of another shard": path.with_name("train-000000.parquet").read_bytes(),
    }
    path.unlink()
    if part in content:
        path.write_bytes(content[part])
    assert publish(LocalStorage(tmp_path / "out"), [plan], 0)[1]
    assert not (tmp_path / "out/index.parquet").exists()
    assert (tmp_path / "out/manifest.json").exists()
