"""Tests of `python -m labeler.index`: the index of data sets of earlier versions, and what it refuses."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import UserError
from common.storage import LocalStorage, open_storage
from labeler.index import main
from labeler.inspection.dataset_statistics import compute_statistics
from labeler.planning.generations import read_plans
from labeler.publishing.publish import publish
from labeler.verification.verify_dataset import verify_dataset
from tests.support.jobs import ROOT, command, photographs, planned, run
from tests.support.labeled import label_shards, make_dataset


@pytest.fixture
def old_dataset(varied_dataset: Path, tmp_path: Path) -> Path:
    """The data set as an earlier version would have made it: without index and parts."""
    copy = shutil.copytree(varied_dataset, tmp_path / "copy")
    (copy / "index.parquet").unlink()
    shutil.rmtree(copy / "index")
    return copy


def test_index_made_from_the_shards_has_the_bytes_of_the_published_one(
    old_dataset: Path, varied_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(old_dataset), "--workers", "1"]) == 0
    assert (old_dataset / "index.parquet").read_bytes() == (varied_dataset / "index.parquet").read_bytes()
    for part in (varied_dataset / "index").iterdir():
        assert (old_dataset / "index" / part.name).read_bytes() == part.read_bytes()
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report == {"index": f"{old_dataset}/index.parquet", "samples": 35, "shards": 4, "shards_read": 4}


def test_only_manifest_and_shards_are_needed(old_dataset: Path, varied_dataset: Path) -> None:
    for path in old_dataset.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".tar" and path.name != "manifest.json":
            path.unlink()
    assert main([str(old_dataset), "--workers", "1"]) == 0
    assert (old_dataset / "index.parquet").read_bytes() == (varied_dataset / "index.parquet").read_bytes()


def test_shards_with_a_part_are_not_read(
    old_dataset: Path, varied_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(varied_dataset / "index", old_dataset / "index")
    (old_dataset / "index/train-000002.parquet").write_bytes(b"damaged")
    assert main([str(old_dataset), "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["shards_read"] == 1
    assert (old_dataset / "index.parquet").read_bytes() == (varied_dataset / "index.parquet").read_bytes()


def test_parts_without_hashes_are_valid_and_are_computed_again_from_stored_images(
    old_dataset: Path, varied_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in shutil.copytree(varied_dataset / "index", old_dataset / "index").iterdir():
        table = pq.read_table(part)
        column = table.schema.get_field_index("phash")
        part.unlink()
        pq.write_table(table.set_column(column, "phash", pa.nulls(len(table), pa.string())), part)
    storage = LocalStorage(old_dataset)
    assert publish(storage, read_plans(storage), max_bad_fraction=1)[1]
    assert pq.read_table(old_dataset / "index.parquet")["phash"].null_count == 35
    assert main([str(old_dataset), "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["shards_read"] == 4
    assert (old_dataset / "index.parquet").read_bytes() == (varied_dataset / "index.parquet").read_bytes()


def test_hashes_of_labels_without_images_are_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = make_dataset(photographs(tmp_path / "images", 3), tmp_path / "out", include_images=False)
    assert pq.read_table(output / "index.parquet")["phash"].null_count == 0
    shutil.rmtree(output / "index")
    for shards_read in (1, 0):
        assert main([str(output), "--workers", "1"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["shards_read"] == shards_read
        assert pq.read_table(output / "index.parquet")["phash"].null_count == 3


def test_an_index_of_another_manifest_is_replaced(old_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(old_dataset), "--workers", "1"]) == 0
    (old_dataset / "manifest.json").write_text((old_dataset / "manifest.json").read_text() + "\n")
    assert main([str(old_dataset), "--workers", "1"]) == 0
    capsys.readouterr()
    compute_statistics(str(old_dataset), 1)
    assert capsys.readouterr().err == ""


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.unlink()
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-512])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_byte, "train-000001.tar: its checksum is not the one in manifest.json. Restore the shard"),
        (cut_short, r"train-000001.tar has [\d,]+ bytes, manifest.json says [\d,]+. Restore the shard"),
        (Path.unlink, "train-000001.tar is missing. Restore the shard"),
    ],
)
def test_shards_other_than_those_of_the_manifest_are_refused(damage: object, problem: str, old_dataset: Path) -> None:
    assert callable(damage)
    damage(old_dataset / "train-000001.tar")
    with pytest.raises(UserError, match=problem):
        main([str(old_dataset), "--workers", "1"])
    assert not (old_dataset / "index.parquet").exists()


def test_an_unfinished_data_set_is_refused_in_one_sentence(tmp_path: Path) -> None:
    output = tmp_path / "out"
    label_shards(
        planned(photographs(tmp_path / "images", 4), output, map_size=20, samples_per_shard=2), output, range(1)
    )
    done = run(command(output, module="labeler.index"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {output}: expected a complete data set, found no manifest.json in it. ")
    assert done.stderr.count("\n") == 1
    (output / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        main([str(output)])
    with pytest.raises(UserError, match="--workers: expected 1 or more, found 0"):
        main([str(output), "--workers", "0"])


def test_index_of_a_data_set_in_s3_has_the_bytes_of_the_local_one(
    old_dataset: Path, varied_dataset: Path, bucket: str, s3_environment: dict[str, str]
) -> None:
    location = f"s3://{bucket}/data/set"
    storage, local = open_storage(location), LocalStorage(old_dataset)
    for name in [*local.list(), *local.list("records")]:
        storage.replace(name, local.read(name))
    assert main([location, "--workers", "1"]) == 0
    assert storage.read("index.parquet") == (varied_dataset / "index.parquet").read_bytes()
    assert compute_statistics(location, 1) == compute_statistics(str(varied_dataset), 1)
    assert verify_dataset(location, 1)["problems"] == []


def test_the_command_imports_neither_torch_nor_ray() -> None:
    code = "import sys, labeler.index; sys.exit(bool({'torch', 'ray', 'boto3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
