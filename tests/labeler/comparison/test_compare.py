"""Comparison of two labelings: figures against NumPy, Pillow and scipy on the content of the tars, and bad input."""

import io
import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import KDTree

from common.errors import UserError
from common.sources import open_source
from common.storage import LocalStorage
from labeler.compare import main
from labeler.comparison.compare import compare_labelings
from labeler.comparison.figures import FIGURES, measure_distance
from labeler.config import LabelConfig
from labeler.planning.generations import read_plans, save_later_plan
from labeler.planning.plan import make_plan
from tests.labeler.comparison.conftest import ONLY_A, ONLY_B, Pair
from tests.support.jobs import ROOT, TEACHER, command, members, photographs, planned, run
from tests.support.labeled import label_shards, make_dataset

EPSILON = 2.2204e-16


def read_tars(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return map, points and json of each sample, read with tarfile, Pillow and NumPy.

    Keys are checksums and, of repeated images, sources.
    """
    contents = {name: content for path in sorted(folder.glob("*.tar")) for name, content in members(path).items()}
    samples = {}
    for name, content in contents.items():
        if name.endswith(".json"):
            info, key = json.loads(content), name.partition(".")[0]
            attention = Image.open(io.BytesIO(contents[f"{key}.attn.png"]))
            points = np.load(io.BytesIO(contents[f"{key}.gaze.npy"])).astype(float)
            samples[info["source_sha256"], info["source"]] = {"info": info, "map": attention, "points": points}
    repeats = Counter(checksum for checksum, _ in samples)
    return {(key[0], key[1] if repeats[key[0]] > 1 else ""): sample for key, sample in samples.items()}


def expected_figures(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """Compute the figures of a pair by their definitions."""
    size = min(a["map"].size, b["map"].size)
    p, q = (np.asarray(side["map"].convert("F").resize(size, Image.Resampling.BILINEAR), float) for side in (a, b))
    info = a["info"]

    def kl(reference: np.ndarray, other: np.ndarray) -> float:
        reference, other = reference / reference.sum(), other / other.sum()
        return float((reference * np.log(EPSILON + reference / (other + EPSILON))).sum())

    def nss(attention: np.ndarray, points: np.ndarray) -> float:
        columns, rows = (np.minimum((points[:, axis] * size[axis]).astype(int), size[axis] - 1) for axis in (0, 1))
        values = (attention - attention.mean()) / attention.std()
        return float(values[rows, columns].mean()) if len(points) else math.nan

    scaled = [side["points"][:, :2] * (info["width"], info["height"]) for side in (a, b)]
    nearest = [KDTree(other).query(points)[0].mean() for points, other in (scaled, scaled[::-1])]
    return {
        "cc": float(np.corrcoef(p.ravel(), q.ravel())[0, 1]),
        "kld_a_b": kl(p, q),
        "kld_b_a": kl(q, p),
        "nss_a_on_b": nss(q, a["points"]),
        "nss_b_on_a": nss(p, b["points"]),
        "gaze_distance": float(np.mean(nearest)) / math.hypot(info["width"], info["height"]),
    }


def compare(pair: Pair, **options: Any) -> dict[str, Any]:
    """Compare without problems and return the report."""
    comparison = compare_labelings(str(pair.a), str(pair.b), workers=1, **options)
    assert comparison.problems == {}
    return comparison.report


def without_datasets(report: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in ("a", "b")}


def test_figures_are_those_of_their_definitions(labelings: Pair) -> None:
    a, b = read_tars(labelings.a), read_tars(labelings.b)
    common = sorted(a.keys() & b.keys())
    expected = [expected_figures(a[identity], b[identity]) for identity in common]
    report = compare(labelings)
    assert (report["common"], report["compared"]) == (len(common), len(common))
    assert (report["only_a"], report["only_b"]) == (len(ONLY_A) + 1, len(ONLY_B) + 1)  # and one of the repeated image
    for name in FIGURES:
        values = np.array([figures[name] for figures in expected])
        assert report[name]["mean"] == pytest.approx(np.nanmean(values), rel=2e-3), name
        assert report[name]["50%"] == pytest.approx(np.nanmedian(values), rel=2e-3), name
        assert report[name]["images"] == (~np.isnan(values)).sum()
    lowest = min(expected, key=lambda figures: figures["cc"])
    assert report["most_different"][0]["cc"] == pytest.approx(lowest["cc"], abs=2e-3)
    ccs = [image["cc"] for image in report["most_different"]]
    assert ccs == sorted(ccs)
    assert [report[side]["map_size"] for side in "ab"] == [50, 32]
    assert report["a"]["complete"]


def test_classes_have_their_own_figures_and_counts(labelings: Pair) -> None:
    a, b = read_tars(labelings.a), read_tars(labelings.b)
    classes = compare(labelings)["classes"]
    assert list(classes) == ["class0", "class1", "class2"]
    for name, figures in classes.items():
        common = [identity for identity in a.keys() & b.keys() if a[identity]["info"]["wnid"] == name]
        expected = np.mean([expected_figures(a[identity], b[identity])["kld_b_a"] for identity in common])
        assert figures["compared"] == len(common)
        assert figures["kld_b_a"] == pytest.approx(expected, rel=2e-3)
        assert figures["only_a"] == sum(side["info"]["wnid"] == name for key, side in a.items() if key not in b)
        assert figures["only_b"] == sum(side["info"]["wnid"] == name for key, side in b.items() if key not in a)


def test_exchanging_the_labelings_exchanges_the_directions(labelings: Pair) -> None:
    report, exchanged = compare(labelings), compare(Pair(labelings.b, labelings.a))
    assert exchanged["cc"] == pytest.approx(report["cc"], abs=1e-6)
    assert exchanged["kld_a_b"] == pytest.approx(report["kld_b_a"], rel=1e-4)
    assert exchanged["nss_a_on_b"] == pytest.approx(report["nss_b_on_a"], rel=1e-4)
    assert exchanged["gaze_distance"] == pytest.approx(report["gaze_distance"])
    assert (exchanged["only_a"], exchanged["only_b"]) == (report["only_b"], report["only_a"])


def test_a_labeling_agrees_with_itself(labelings: Pair) -> None:
    report = compare(Pair(labelings.a, labelings.a))
    assert (report["only_a"], report["only_b"], report["common"]) == (0, 0, 16)
    assert (report["cc"]["5%"], report["kld_a_b"]["mean"]) == (pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert report["gaze_distance"]["mean"] == 0


def test_labelings_without_an_index_have_the_same_figures(copies: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    report = compare(copies)
    for folder in copies:
        (folder / "index.parquet").unlink()
    assert compare(copies) == report
    notes = capsys.readouterr().err.splitlines()
    assert notes == [
        f"reading the shards of {folder} instead of its index, because index.parquet is missing" for folder in copies
    ]


def append_zeros(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(10240))


def test_an_index_of_other_shards_is_not_used(copies: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    report = compare(copies)
    append_zeros(copies.b / "train-000001.tar")
    assert compare(copies) == report
    assert "because train-000001.tar has " in capsys.readouterr().err


def exchange_samples(path: Path) -> None:
    """Rewrite a shard with its content moved by some bytes: the size stays, but the index does not match."""
    content = path.read_bytes()
    path.write_bytes(content[2048:-10240] + content[:2048] + content[-10240:])


def spoil_maps(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"IDAT", b"NOPE"))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(exchange_samples, "no sample at byte"), (spoil_maps, "no sample at byte"), (Path.unlink, "")],
)
def test_unreadable_samples_are_reported_and_the_others_compared(
    copies: Pair, damage: Callable[[Path], Any], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copies.b / "train-000001.tar")
    code = main([str(copies.a), str(copies.b), "--workers", "1"])
    printed, errors = capsys.readouterr()
    report = json.loads(printed.splitlines()[-1])
    path = str(copies.b / "train-000001.tar")
    assert (code, report["unreadable"]) == (1, [path])
    assert 0 < report["compared"] < report["common"] + (problem == "")  # a missing shard's images are not common
    assert report["compared"] == report["cc"]["images"] == sum(row["compared"] for row in report["classes"].values())
    assert errors.splitlines()[-1].startswith(f"{path}: {problem}")


def test_a_sample_of_another_image_at_the_same_bytes_is_not_compared(copies: Pair) -> None:
    path = copies.b / "train-000001.tar"
    content = path.read_bytes()
    [first, *_] = [json.loads(text) for name, text in members(path).items() if name.endswith(".json")]
    path.write_bytes(content.replace(first["source_sha256"].encode(), b"0" * 64))
    comparison = compare_labelings(str(copies.a), str(copies.b), workers=1)
    assert list(comparison.problems.values()) == ["another sample than expected at byte 1024: the shard has changed"]


def test_labelings_without_a_common_image_are_refused(labelings: Pair, tmp_path: Path) -> None:
    other = make_dataset(photographs(tmp_path / "images", 2).rename(tmp_path / "flat"), tmp_path / "out", limit=1)
    (other / "index.parquet").unlink()
    path = other / "train-000000.tar"
    [info] = [json.loads(text) for name, text in members(path).items() if name.endswith(".json")]
    path.write_bytes(path.read_bytes().replace(info["source_sha256"].encode(), b"1" * 64))
    error = f"{labelings.a} and {other} have no image in common: none of 16 and 1 samples have the same source_sha256"
    with pytest.raises(UserError, match=error):
        main([str(labelings.a), str(other), "--workers", "1"])


def test_in_the_middle_of_a_generation_the_published_shards_are_compared(copies: Pair, tmp_path: Path) -> None:
    before, storage = compare(copies), LocalStorage(copies.a)
    [first] = read_plans(storage)
    new = photographs(tmp_path / "new", 5, classes=1)
    config = first.config.model_copy(update={"samples_per_shard": 2})
    plan, table = make_plan(open_source(str(new)).list(), LabelConfig(**config.model_dump()), TEACHER, str(new), first)
    save_later_plan(storage, plan, table)
    label_shards(plan, copies.a, range(plan.first_shard, plan.first_shard + 1))
    report = compare(copies)
    assert without_datasets(report) == without_datasets(before)
    assert (before["a"]["complete"], report["a"]["complete"]) == (True, False)


def test_of_an_unfinished_data_set_the_finished_shards_are_compared(
    labelings: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photographs(tmp_path / "images", 14, classes=3)
    plan = planned(images, tmp_path / "out", samples_per_shard=4, map_size=20)
    with pytest.raises(UserError, match="expected a data set with finished shards, found none yet"):
        compare_labelings(str(tmp_path / "out"), str(labelings.b), workers=1)
    label_shards(plan, tmp_path / "out", range(1, 3))
    report = compare(Pair(tmp_path / "out", labelings.b))
    assert (report["a"]["complete"], report["a"]["samples"]) == (False, 7)
    assert report["compared"] == report["common"] == 7 - report["only_a"]
    with pytest.raises(UserError, match=r"nothing: expected the folder of a data set, found no plan\.json in it"):
        compare_labelings(str(labelings.a), str(tmp_path / "nothing"), workers=1)


def test_a_copy_of_only_the_manifest_and_the_shards_is_compared(copies: Pair) -> None:
    before = compare(copies)
    for path in [*copies.b.glob("*"), *copies.a.glob("*")]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != ".tar" and path.name != "manifest.json":
            path.unlink()
    assert compare(copies) == before


def test_labelings_in_s3_are_compared(labelings: Pair, bucket: str, s3: Any, s3_environment: dict[str, str]) -> None:
    for path in labelings.b.iterdir():
        if path.name in ("manifest.json", "index.parquet") or path.suffix == ".tar":
            s3.client().upload_file(str(path), bucket, f"b/{path.name}")
    report = compare_labelings(str(labelings.a), f"s3://{bucket}/b", workers=1).report
    assert without_datasets(report) == without_datasets(compare(labelings))


def test_a_limit_draws_some_of_the_common_images(labelings: Pair) -> None:
    report = compare(labelings, limit=5)
    assert (report["common"], report["compared"], len(report["most_different"])) == (13, 5, 5)
    assert compare(labelings, limit=5) == report
    assert compare(labelings, limit=5, seed=1)["most_different"] != report["most_different"]
    for flags in (["--limit", "0"], ["--workers", "0"], ["--seed", "-1"]):
        with pytest.raises(UserError, match=rf"{flags[0]}: expected [01] or more, found {flags[1]}"):
            main(["a", "b", *flags])


def test_distances_between_points() -> None:
    a, b = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 0.5]]), np.array([[0.0, 0.5, 1.0]])
    # in pixels: from A to B 15 and hypot(40, 15), from B to A 15
    assert measure_distance(a, b, 40, 30) == pytest.approx(((15 + math.hypot(40, 15)) / 2 + 15) / 2 / 50)
    assert measure_distance(a, a, 40, 30) == 0
    assert math.isnan(measure_distance(a, b[:0], 40, 30))


@pytest.mark.slow
def test_processes_give_the_same_figures(labelings: Pair) -> None:
    done = run(command(labelings.a, labelings.b, module="labeler.compare", workers=2))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1]) == compare(labelings)


def test_the_command_imports_neither_torch_nor_ray_for_help() -> None:
    code = "import sys, labeler.compare; sys.exit(bool({'torch', 'ray', 'boto3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
