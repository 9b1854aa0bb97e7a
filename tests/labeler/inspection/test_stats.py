"""Tests of the statistics command: tables, JSON, damaged and unfinished data sets."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UserError
from labeler.stats import compute_statistics, main
from tests.support.jobs import ROOT, command, photographs, planned, run
from tests.support.labeled import ShardContents, label_shards, make_dataset


def test_statistics_of_a_data_set_without_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = make_dataset(photographs(tmp_path / "images", 5), tmp_path / "out", include_images=False)
    assert main([str(output), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "no classes" in printed
    report = json.loads(printed.splitlines()[-1])
    assert (report["classes"], report["samples"]) == (None, 5)
    assert report["duplicates"]["groups_across_classes"] == 0


def test_an_unfinished_data_set_is_reported_as_unfinished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    plan = planned(photographs(tmp_path / "images", 12, classes=12), output, samples_per_shard=4, map_size=20)
    label_shards(plan, output, range(1, 3))
    assert main([str(output), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed.splitlines()[-1])
    assert "unfinished" in printed.splitlines()[0]
    assert (report["complete"], report["shards"], report["samples"]) == (False, 2, 8)
    labeled = {f"class{index}" for index in ShardContents(output).classes}
    assert len(set(report["classes"]["without_samples"])) == 4
    names = set(plan.classes or [])
    assert set(report["classes"]["without_samples"]) == names - {info["wnid"] for info in ShardContents(output).infos}
    assert labeled <= names


def test_a_data_set_without_samples_has_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images/some").mkdir(parents=True)
    (tmp_path / "images/some/empty.jpg").write_bytes(b"")
    output = make_dataset(tmp_path / "images", tmp_path / "out")
    assert main([str(output), "--workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["samples"], report["failures"]) == (0, {"empty": 1})
    assert report["classes"]["without_samples"] == ["some"]
    assert (report["classes"]["fewest"], report["maps"]["mean"], report["gaze"]["spread"]) == (None, None, None)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_map(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IHDR", b"nope", 1))


DAMAGES: dict[str, tuple[Callable[[Path], None], int | None]] = {  # with the number of lost samples, if known
    "gone": (lambda path: path.unlink(), 10),
    "emptied": (lambda path: path.write_bytes(b""), 10),
    "cut short": (cut_short, None),
    "one map damaged": (damage_map, 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_reported_and_the_others_are_counted(
    varied_dataset: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(varied_dataset, copy)
    apply_damage, lost = DAMAGES[damage]
    others = ShardContents(varied_dataset, skipped="train-000001.tar")
    all_samples = len(ShardContents(varied_dataset).infos)
    samples_in_shard = all_samples - len(others.infos)
    apply_damage(copy / "train-000001.tar")
    (copy / "index.parquet").unlink()
    assert main([str(copy), "--workers", "1"]) == 1
    output, errors = capsys.readouterr()
    report = json.loads(output.splitlines()[-1])
    note, problem = errors.splitlines()
    assert note.startswith("reading the shards instead of the index, because index.parquet is missing; ")
    assert problem.startswith("train-000001.tar: ")
    assert report["unreadable"] == ["train-000001.tar"]
    assert report["shards"] == 4
    if lost is None:
        assert all_samples - samples_in_shard <= report["samples"] < all_samples
    else:
        assert report["samples"] == all_samples - min(lost, samples_in_shard)
    if damage == "gone":
        assert report["classes"]["most"]["samples"] == max(Counter(others.classes).values())


def test_damaged_records_and_manifests_are_reported(
    varied_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(varied_dataset, copy)
    for name in ("records/train-000002.json", "manifest.json"):
        (copy / name).write_bytes(b"{")
    assert main([str(copy), "--workers", "1"]) == 1
    output, errors = capsys.readouterr()
    report = json.loads(output.splitlines()[-1])
    assert report["unreadable"] == ["manifest.json", "records/train-000002.json"]
    assert [line.split(": ")[0] for line in errors.splitlines()] == ["records/train-000002.json", "manifest.json"]
    assert (report["complete"], report["shards"]) == (False, 3)
    assert report["samples"] == len(ShardContents(varied_dataset, skipped="train-000002.tar").infos)


def test_the_command_prints_tables_and_one_line_of_json(varied_dataset: Path, tmp_path: Path) -> None:
    done = run(command(varied_dataset, module="labeler.stats", workers=2, json=tmp_path / "report.json"))
    assert (done.returncode, done.stderr) == (0, "")
    *printed, last = done.stdout.splitlines()
    assert (
        json.loads(last)
        == json.loads((tmp_path / "report.json").read_text())
        == compute_statistics(str(varied_dataset), 1)[0]
    )
    titles = [line for line in printed if line and not line.startswith(" ")]
    assert titles[0] == f"{varied_dataset}: complete"
    sections = ["Data set", "Classes", "Quantiles", "Maps", "Gaze points", "Images", "Duplicates", "Failed images"]
    assert titles[1:] == sections
    assert max(map(len, printed)) < 140
    assert any("class3" in line and "without samples" in line for line in printed)
    assert any("class0/photo000.jpg" in line and "4 times" in line for line in printed)


def test_control_characters_in_names_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = photographs(tmp_path / "images", 2, classes=1)
    hostile = images / "\x1b[2J\x07class"
    hostile.mkdir()
    (hostile / "a\nb.jpg").write_bytes((images / "class0/photo000.jpg").read_bytes())
    output = make_dataset(images, tmp_path / "out")
    assert main([str(output), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert set("\x1b\x07").isdisjoint(printed)
    assert "\\u001b[2J\\u0007class/a\\nb.jpg" in printed


def test_a_data_set_without_finished_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected the folder of a data set, found no plan\.json in it"):
        compute_statistics(str(tmp_path / "nowhere"))
    planned(photographs(tmp_path / "images", 2), tmp_path / "out")
    with pytest.raises(UserError, match="expected a data set with finished shards, found none"):
        compute_statistics(str(tmp_path / "out"))
    with pytest.raises(UserError, match="--workers: expected 1 or more, found 0"):
        main([str(tmp_path / "out"), "--workers", "0"])
    done = run(command(tmp_path, module="labeler.stats"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}: expected the folder of a data set, found no plan.json in it\n"


def test_a_json_file_that_cannot_be_written_is_a_user_error(varied_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--json .*: cannot be written: "):
        main([str(varied_dataset), "--workers", "1", "--json", str(tmp_path / "file/report.json")])


def test_the_command_imports_neither_torch_nor_ray() -> None:
    code = "import sys, labeler.stats; sys.exit(bool({'torch', 'ray', 'boto3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
