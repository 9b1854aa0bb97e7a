"""Near-duplicates by `labeler.stats`: planted copies of photographs are found, and nothing else."""

import csv
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from common.errors import UserError
from common.storage import LocalStorage, open_storage
from labeler.near_duplicates import report
from labeler.near_duplicates.find import choose_limits
from labeler.stats import main
from tests.support.data.copies import COPIES, PHOTOGRAPHS
from tests.support.data.pictures import encoded, exif, jpeg, write
from tests.support.jobs import ROOT, planned
from tests.support.labeled import label_shards, make_dataset, rewrite_index

COPIED = PHOTOGRAPHS[:3]
ORIGINALS = 3 * len(PHOTOGRAPHS)


@functools.cache
def make_originals() -> dict[str, bytes]:
    """Return photographs, and both halves of each, by path."""
    files = {f"originals/{path.stem}.jpg": path.read_bytes() for path in PHOTOGRAPHS}
    for path in PHOTOGRAPHS:
        image = Image.open(path).convert("RGB")
        middle, (width, height) = image.width // 2, image.size
        for name, box in {"left": (0, 0, middle, height), "right": (middle, 0, width, height)}.items():
            files[f"originals/{path.stem}_{name}.jpg"] = encoded(image.crop(box), "JPEG")
    return files


@functools.cache
def make_copies() -> dict[str, bytes]:
    """Return copies of some photographs by path, an image of another format and a turned one among them."""
    files = dict[str, bytes]()
    for path in COPIED:
        image = Image.open(path).convert("RGB")
        files |= {f"copies/{path.stem}_{name}.jpg": encoded(copy(image), "JPEG") for name, copy in COPIES.items()}
        turned = image.transpose(Image.Transpose.ROTATE_90)
        files[f"copies/{path.stem}_turned.jpg"] = encoded(turned, "JPEG", exif=exif(6))
        files[f"copies/{path.stem}_png.jpg"] = encoded(image, "PNG")
    return files


EXPECTED = {
    frozenset({f"originals/{path.stem}.jpg", *(name for name in make_copies() if path.stem in name)}) for path in COPIED
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets of originals and copies: `together`, `labels` of the same without images, `originals`, `copies`."""
    folder = tmp_path_factory.mktemp("near_duplicates")
    images = {"together": make_originals() | make_copies(), "originals": make_originals(), "copies": make_copies()}
    for name, files in images.items():
        make_dataset(write(folder / f"{name}_images", files), folder / name, samples_per_shard=9)
    make_dataset(folder / "together_images", folder / "labels", samples_per_shard=9, include_images=False)
    return folder


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """Copies of the data sets, to be changed by a test."""
    return shutil.copytree(shared, tmp_path / "copy")


def compute_report(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--workers", "1"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["near_duplicates"]


def list_groups(found: dict[str, Any]) -> list[frozenset[str]]:
    return [frozenset(group["sources"]) | frozenset(group.get("against", [])) for group in found["listed"]]


def test_planted_copies_are_found_and_nothing_else(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compute_report(capsys, shared / "together", "--near-duplicates")
    groups = list_groups(found)
    assert len(groups) == len(set(groups)) == 3
    assert set(groups) == EXPECTED
    assert {
        name: found[name] for name in ("groups", "images", "groups_across_classes", "compared", "without_hash")
    } == {
        "groups": 3,
        "images": 24,
        "groups_across_classes": 3,
        "compared": 21 + ORIGINALS,
        "without_hash": 0,
    }
    assert found["confirmed_by_pixels"]
    assert "against" not in found["listed"][0]


def test_labels_without_images_are_compared_by_hashes(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compute_report(capsys, shared / "labels", "--near-duplicates")
    assert set(list_groups(found)) == EXPECTED
    assert not found["confirmed_by_pixels"]


@pytest.mark.parametrize("against", ["copies", "labels"])
def test_leaks_into_another_data_set_are_found(against: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compute_report(capsys, shared / "originals", "--against", shared / against)
    leaks = {tuple(group["sources"]): group["against"] for group in found["listed"]}
    copied = {f"originals/{path.stem}.jpg": [name for name in make_copies() if path.stem in name] for path in COPIED}
    if against == "copies":
        assert {sources: sorted(copies) for sources, copies in leaks.items()} == {
            (source,): sorted(copies) for source, copies in copied.items()
        }
    else:  # it contains the originals, too
        assert set(leaks) == {(source,) for source in make_originals()}
        assert all(set(copies) <= set(leaks[source,]) for source, copies in copied.items())
    assert (found["against"], found["compared"]) == (str(shared / against), ORIGINALS)


def test_page_and_csv_file_show_the_groups(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "MAX_LISTED_GROUPS", 2)
    page = tmp_path / "new/page.html"
    found = compute_report(capsys, shared / "together", "--near-duplicates", "--to", page)
    assert (found["page"], found["csv"], found["groups"]) == (str(page), str(page.with_suffix(".csv")), 3)
    assert len(found["listed"]) == 2
    content = page.read_text()
    assert content.count("<figure") == 2 * (24 - 3)
    assert content.count("data:image/jpeg") == content.count("<figure")
    with open(found["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    groups = [{row["source"] for row in rows if row["group"] == str(number)} for number in (1, 2, 3)]
    assert {frozenset(group) for group in groups} == EXPECTED
    assert [groups[0], groups[1]] == [set(group) for group in list_groups(found)]
    assert {row["wnid"] for row in rows} == {"originals", "copies"}
    assert all(0 <= int(row["distance"]) <= 90 for row in rows)
    assert {row["mirrored"] for row in rows if "flipped" in row["source"]} == {"1"}
    assert {row["mirrored"] for row in rows if "recompressed" in row["source"]} == {"0"}


def test_page_of_labels_shows_their_maps(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--to", str(tmp_path / "page.html"), "--csv", str(tmp_path / "groups.csv")]
    found = compute_report(capsys, shared / "labels", "--near-duplicates", *files)
    assert found["csv"] == str(tmp_path / "groups.csv")
    content = (tmp_path / "page.html").read_text()
    assert content.count('class="heat"') == content.count("<figure") > 0
    assert "data:image/jpeg" not in content


def test_data_sets_in_s3_are_compared(
    shared: Path, bucket: str, s3_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("originals", "copies"):
        storage, local = open_storage(f"s3://{bucket}/{name}"), LocalStorage(shared / name)
        for file in [*local.list(), *local.list("records")]:
            storage.replace(file, local.read(file))
    found = compute_report(capsys, f"s3://{bucket}/originals", "--against", f"s3://{bucket}/copies")
    assert set(list_groups(found)) == EXPECTED
    assert found["confirmed_by_pixels"]


def test_without_near_duplicates_there_are_none(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    found = compute_report(capsys, shared / "originals", "--near-duplicates", "--to", page)
    assert (found["groups"], found["listed"]) == (0, [])
    assert "There are none." in page.read_text()
    write(tmp_path / "images", {"empty.jpg": b""})
    nothing = make_dataset(tmp_path / "images", tmp_path / "nothing")
    assert compute_report(capsys, nothing, "--near-duplicates")["compared"] == 0
    assert compute_report(capsys, shared / "originals", "--against", nothing)["groups"] == 0


def remove_index(dataset: Path) -> None:
    (dataset / "index.parquet").unlink()


def remove_hashes(dataset: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(table.schema.get_field_index("phash"), "phash", pa.nulls(len(table), pa.string()))

    rewrite_index(dataset, change)


def write_other_table(dataset: Path) -> None:
    remove_index(dataset)
    pq.write_table(pa.table({"key": ["000000000"]}), dataset / "index.parquet")


def change_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").write_text((dataset / "manifest.json").read_text() + "\n")


def remove_manifest(dataset: Path) -> None:
    (dataset / "manifest.json").unlink()


def spoil_hash(dataset: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        values = pa.array(["123", *table["phash"].to_pylist()[1:]], pa.string())
        return table.set_column(table.schema.get_field_index("phash"), "phash", values)

    rewrite_index(dataset, change)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (remove_index, r"index\.parquet is missing\. python -m labeler\.index .* writes it"),
        (remove_hashes, r"has no perceptual hashes\. python -m labeler\.index .* computes them from the stored images"),
        (write_other_table, r"index\.parquet does not belong to manifest\.json\. python -m labeler\.index"),
        (change_manifest, r"index\.parquet does not belong to manifest\.json\. python -m labeler\.index"),
        (remove_manifest, r"there is no sound manifest\.json .*python -m labeler\.index"),
        (spoil_hash, r"is damaged: expected hashes of 64 hexadecimal digits, found '123'\. python -m labeler\.index"),
    ],
)
def test_data_sets_without_a_usable_index_are_refused(
    damage: Callable[[Path], None], problem: str, folder: Path
) -> None:
    damage(folder / "originals")
    with pytest.raises(UserError, match=f"{folder / 'originals'}: .*{problem}"):
        main([str(folder / "originals"), "--near-duplicates"])
    with pytest.raises(UserError, match=f"{folder / 'originals'}: .*{problem}"):
        main([str(folder / "copies"), "--against", str(folder / "originals")])


def test_labels_of_an_earlier_version_are_refused(folder: Path) -> None:
    remove_hashes(folder / "labels")
    with pytest.raises(UserError, match=r"stores no images from which .* label the images again"):
        main([str(folder / "labels"), "--near-duplicates"])


def test_shards_other_than_those_of_the_index_are_refused(folder: Path) -> None:
    shard = folder / "together/train-000001.tar"
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(bytes(len(content)))
    with pytest.raises(UserError, match=r"train-000001\.tar: sample \d+ is not where the index says .*labeler\.verify"):
        main([str(folder / "together"), "--near-duplicates"])
    shard.write_bytes(content + b"more")
    with pytest.raises(UserError, match=r"index\.parquet does not belong to the shards: train-000001\.tar has"):
        main([str(folder / "together"), "--near-duplicates"])


def test_in_the_middle_of_a_generation_the_published_images_are_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(write(folder / "more", {"a.jpg": jpeg(seed=70)}), folder / "later")
    label_shards(plan, folder / "later")
    (folder / "later/train-000000.tar").rename(folder / "originals/train-000009.tar")
    assert main([str(folder / "originals"), "--near-duplicates", "--workers", "1"]) == 0
    assert "1 shard not compared, because the manifest does not have them yet" in capsys.readouterr().err


def test_images_without_hashes_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(table: pa.Table) -> pa.Table:
        hashes = pa.array([None, *table["phash"].to_pylist()[1:]], pa.string())
        return table.set_column(table.schema.get_field_index("phash"), "phash", hashes)

    rewrite_index(folder / "originals", change)
    assert main([str(folder / "originals"), "--near-duplicates", "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["near_duplicates"]["without_hash"] == 1
    assert "1 image without a perceptual hash not compared" in captured.err


def test_flags_for_near_duplicates_are_checked(shared: Path, tmp_path: Path) -> None:
    for flag in ("--to", "--csv"):
        with pytest.raises(UserError, match="add --near-duplicates or --against"):
            main([str(shared / "originals"), flag, str(tmp_path / "file")])
        with pytest.raises(UserError, match="cannot write"):
            main([str(shared / "originals"), "--near-duplicates", flag, str(tmp_path)])


def test_limits_are_stricter_for_more_pairs() -> None:
    imagenet = 1_281_167**2 / 2
    assert [choose_limits(False, pairs).all for pairs in (0, 5e7, 2e8, imagenet)] == [60, 60, 55, 31]
    assert [choose_limits(True, pairs).all for pairs in (0, 5e7, 2e8, imagenet)] == [90, 90, 85, 80]
    assert choose_limits(True, imagenet) == (80, 20, 5)
    assert choose_limits(True, 1e8) > choose_limits(True, imagenet)


def test_statistics_alone_do_not_import_scipy_or_torch() -> None:
    code = "import sys, labeler.stats; sys.exit(bool({'torch', 'ray', 'scipy', 'boto3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
