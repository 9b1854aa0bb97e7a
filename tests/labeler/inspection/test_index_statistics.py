"""Statistics from the index are those from the shards, and an index that cannot be trusted is not used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.inspection.dataset_statistics import compute_statistics
from labeler.planning.generations import save_later_plan
from labeler.planning.plan import make_plan
from labeler.publishing.publish import publish
from tests.support.jobs import TEACHER, photographs, planned
from tests.support.labeled import label_shards, make_dataset, rewrite_index


@pytest.fixture
def dataset(varied_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be changed by a test."""
    return shutil.copytree(varied_dataset, tmp_path / "copy")


def erase_content(folder: Path, shards: str = "train-*.tar") -> None:
    """Replace shards by zeros, so that only an index has figures of their samples."""
    for path in folder.glob(shards):
        size = path.stat().st_size
        path.unlink()
        path.write_bytes(bytes(size))


def test_statistics_from_the_index_equal_those_from_the_shards(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = dataset / "index.parquet"
    index.rename(dataset / "hidden")
    from_shards = compute_statistics(str(dataset), 1)
    assert "because index.parquet is missing; python -m labeler.index" in capsys.readouterr().err
    (dataset / "hidden").rename(index)
    erase_content(dataset)
    assert compute_statistics(str(dataset), 1) == from_shards
    assert from_shards[0]["duplicates"]["largest"]
    assert capsys.readouterr().err == ""


def test_data_set_without_classes_has_the_same_statistics_from_its_index(tmp_path: Path) -> None:
    output = make_dataset(photographs(tmp_path / "images", 5), tmp_path / "out", include_images=False)
    (output / "index.parquet").rename(output / "hidden")
    from_shards = compute_statistics(str(output), 1)
    (output / "hidden").rename(output / "index.parquet")
    assert compute_statistics(str(output), 1) == from_shards


def test_in_the_middle_of_a_generation_only_its_shards_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = photographs(tmp_path / "images", 6, classes=2), tmp_path / "out"
    first = planned(images, output, samples_per_shard=4, map_size=20)
    label_shards(first, output)
    storage = LocalStorage(output)
    publish(storage, [first], 0)
    new = photographs(tmp_path / "new", 5, classes=3)  # the first have the bytes of those labeled before
    config = LabelConfig(map_size=20, samples_per_shard=2)
    later, table = make_plan(open_source(str(new)).list(), config, TEACHER, str(new), first)
    save_later_plan(storage, later, table)
    label_shards(later, output, range(3, 5))
    (output / "index.parquet").rename(output / "hidden")
    from_shards = compute_statistics(str(output), 1)
    (output / "hidden").rename(output / "index.parquet")
    capsys.readouterr()
    erase_content(output, "train-00000[01].tar")
    assert compute_statistics(str(output), 1) == from_shards
    assert (from_shards[0]["complete"], from_shards[0]["shards"]) == (False, 4)
    assert from_shards[0]["duplicates"]["groups"] > 0
    assert capsys.readouterr().err == ""


def change_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text() + "\n")


def write_other_table(folder: Path) -> None:
    pq.write_table(pa.table({"key": ["000000000"], "shard": ["a"]}), folder / "index.parquet")


def remove_values(folder: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index("width"), "width", pa.nulls(len(table), pa.int32()))

    rewrite_index(folder, change)


def damage_pages(folder: Path) -> None:
    content = bytearray((folder / "index.parquet").read_bytes())
    content[4:400] = bytes(396)
    (folder / "index.parquet").write_bytes(content)


def lengthen_shard(folder: Path) -> None:
    with open(folder / "train-000001.tar", "ab") as file:
        file.write(bytes(512))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another manifest": (change_manifest, "index.parquet does not belong to manifest.json"),
    "no Parquet file": (
        lambda folder: (folder / "index.parquet").write_bytes(b"PAR1 and other bytes"),
        "index.parquet is damaged, or not a Parquet file: ",
    ),
    "empty file": (lambda folder: (folder / "index.parquet").write_bytes(b""), "index.parquet is damaged, or not a"),
    "another table": (write_other_table, "index.parquet does not belong to manifest.json"),
    "other columns": (
        lambda folder: rewrite_index(folder, lambda rows: rows.select(["key"])),
        "index.parquet is not an index of samples: it lacks the columns source, ",
    ),
    "missing rows": (
        lambda folder: rewrite_index(folder, lambda rows: rows.slice(1)),
        "index.parquet has 34 rows, manifest.json counts 35 samples",
    ),
    "missing values": (remove_values, "index.parquet is damaged: null values in width"),
    "damaged pages": (damage_pages, "index.parquet is damaged: "),
    "changed shard": (lengthen_shard, "train-000001.tar has "),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_cannot_be_trusted_is_not_used(
    damage: str, dataset: Path, varied_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apply, reason = DAMAGES[damage]
    apply(dataset)
    report, problems = compute_statistics(str(dataset), 1)
    assert not problems
    assert report == compute_statistics(str(varied_dataset), 1)[0]
    error = capsys.readouterr().err
    assert error.startswith(f"reading the shards instead of the index, because {reason}")
    assert error.endswith(f"; python -m labeler.index {dataset} writes the index again\n")
    assert error.count("\n") == 1
