"""Verification of the index against the manifest and the shards."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeler.verification.verify_dataset import verify_dataset
from tests.support.labeled import rewrite_index


@pytest.fixture
def dataset(varied_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be changed by a test."""
    return shutil.copytree(varied_dataset, tmp_path / "copy")


def find_problems(dataset: Path) -> list[str]:
    return verify_dataset(str(dataset), workers=1)["problems"]


def change_value(dataset: Path, column: str, row: int, value: Any) -> None:
    """Change one value of the index."""

    def change(table: pa.Table) -> pa.Table:
        values, field = table[column].to_pylist(), table.schema.field(column)
        assert values[row] != value
        values[row] = value
        return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))

    rewrite_index(dataset, change)


def test_an_index_of_its_own_and_a_missing_one_are_accepted(dataset: Path) -> None:
    assert find_problems(dataset) == []
    (dataset / "index.parquet").unlink()
    shutil.rmtree(dataset / "index")
    assert find_problems(dataset) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("key", "000000099"), ("source", "another.jpg"), ("class", None), ("shard", "train-000000.tar")),
        *(("attn_png_offset", 512), ("jpg_size", 1), ("map_area", 0.5), ("map_mean", None), ("gaze_points", 1)),
        ("phash", "0F"),
    ],
)
def test_a_changed_value_is_reported(column: str, value: object, dataset: Path) -> None:
    change_value(dataset, column, 15, value)
    assert find_problems(dataset) == [f"train-000001.tar: index.parquet does not match it: {column}"]


def test_rounding_and_perceptual_hashes_of_other_versions_are_accepted(dataset: Path) -> None:
    before = pq.read_table(dataset / "index.parquet")["map_area"][15].as_py()
    change_value(dataset, "map_area", 15, before * (1 + 1e-12))
    change_value(dataset, "phash", 15, "0f" * 32)
    change_value(dataset, "phash", 16, None)
    assert find_problems(dataset) == []


def test_an_index_of_another_manifest_is_reported(dataset: Path) -> None:
    table = pq.read_table(dataset / "index.parquet")
    metadata = {**(table.schema.metadata or {}), b"manifest_sha256": b"0" * 64}
    pq.write_table(table.replace_schema_metadata(metadata), dataset / "index.parquet")
    advice = f"python -m labeler.index {dataset} writes it again"
    assert find_problems(dataset) == [f"index.parquet does not belong to manifest.json; {advice}"]
    (dataset / "index.parquet").write_bytes(b"no Parquet")
    problems = find_problems(dataset)
    assert len(problems) == 1
    assert problems[0].startswith("index.parquet is damaged, or not a Parquet file: ")
    assert problems[0].endswith(advice)
