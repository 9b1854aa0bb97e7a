import io
import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import entropy

from common.errors import UserError
from common.manifest import Plan
from common.shards import Sample, SampleInfo
from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.inspection.duplicates import LARGEST, count_duplicates
from labeler.inspection.summary import summarize_gaze
from labeler.inspection.tally import CELLS, ROW, Sums, mass_by_cell
from labeler.planning.generations import save_later_plan
from labeler.planning.plan import make_plan
from labeler.publishing.publish import publish
from labeler.stats import compute_statistics, main
from tests.support.jobs import ROOT, TEACHER, command, members, photographs, planned, run, shard_labeler
from tests.support.pictures import encoded, jpeg, photograph, turned_jpeg

CAP = 10
KEYS = ["complete", "shards", "samples", "bytes", "classes", "maps", "gaze", "images", "duplicates", "failures"]


def label(plan: Plan, output: Path, shards: range | None = None) -> None:
    labeler = shard_labeler(plan, output)
    for shard in plan.shard_indices if shards is None else shards:
        labeler.label(shard)


def made(images: Path, output: Path, **config: Any) -> Path:
    """A complete data set."""
    plan = planned(images, output, **{"map_size": 50, "max_gaze_points": CAP, "gaze_threshold": 0.75, **config})
    label(plan, output)
    assert publish(LocalStorage(output), [plan], max_bad_fraction=1)[1]
    return output


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of four classes, one of them without a usable one; some turned, encoded anew, failed, repeated."""
    folder = tmp_path_factory.mktemp("stats")
    images = photographs(folder / "images", 24, classes=3)
    (images / "class0/wide.jpg").write_bytes(jpeg(300, 40, seed=50))
    (images / "class0/png.JPEG").write_bytes(encoded(photograph(seed=51), "PNG"))
    (images / "class1/webp.jpg").write_bytes(encoded(photograph(seed=52), "WEBP"))
    (images / "class1/webp_too.jpg").write_bytes(encoded(photograph(seed=53), "WEBP"))
    (images / "class2/turned.jpg").write_bytes(turned_jpeg(6, seed=54))
    (images / "class2/mirrored.jpg").write_bytes(turned_jpeg(2, seed=55))
    (images / "class2/upright.jpg").write_bytes(turned_jpeg(1, seed=56))
    (images / "class1/text.jpg").write_bytes(b"no image")
    (images / "class3").mkdir()
    (images / "class3/empty.jpg").write_bytes(b"")
    (images / "class3/empty_too.jpg").write_bytes(b"")
    for index in range(3):
        (images / f"class0/again{index}.jpg").write_bytes((images / "class0/photo000.jpg").read_bytes())
    (images / "class2/elsewhere.jpg").write_bytes((images / "class1/photo001.jpg").read_bytes())
    return made(images, folder / "out", samples_per_shard=10)


class Read:
    """Everything in the tars of a data set, as tarfile, Pillow and numpy give it."""

    def __init__(self, folder: Path, skipped: str = "") -> None:
        paths = [path for path in sorted(folder.glob("train-*.tar")) if path.name != skipped]
        contents = {name: content for path in paths for name, content in members(path).items()}
        self.infos = [json.loads(content) for name, content in contents.items() if name.endswith(".json")]
        self.classes = [int(content) for name, content in contents.items() if name.endswith(".cls")]
        pngs = [content for name, content in contents.items() if name.endswith(".png")]
        self.maps = [np.asarray(Image.open(io.BytesIO(content)), float) / 255 for content in pngs]
        arrays = [content for name, content in contents.items() if name.endswith(".npy")]
        self.points = [np.load(io.BytesIO(content)).astype(float) for content in arrays]

    def quantiles(self, values: Sequence[float]) -> Any:
        return pytest.approx({f"{q}%": np.quantile(values, q / 100) for q in (5, 25, 50, 75, 95)})

    def column(self, name: str) -> list[Any]:
        return [info[name] for info in self.infos]


def blocks(attention: np.ndarray, parts: int) -> np.ndarray:
    """Exact sums over parts x parts equal blocks, by making each pixel parts x parts smaller ones."""
    side = len(attention)
    fine = np.kron(attention, np.ones((parts, parts))) / parts**2
    return fine.reshape(parts, side, parts, side).sum(axis=(1, 3))


@pytest.mark.parametrize("workers", [1, 3])
def test_every_figure_is_what_the_tars_say(dataset: Path, workers: int) -> None:
    report, troubles = compute_statistics(str(dataset), workers)
    read = Read(dataset)
    assert not troubles
    assert list(report) == [*KEYS, "unreadable"]
    assert (report["complete"], report["shards"], report["samples"]) == (True, 4, len(read.infos))
    assert report["bytes"] == sum(path.stat().st_size for path in dataset.glob("*.tar"))
    assert report["failures"] == {"empty": 2, "not_an_image": 1}
    assert report["unreadable"] == []


def test_maps_are_added_up(dataset: Path) -> None:
    found, read = compute_statistics(str(dataset), 1)[0]["maps"], Read(dataset)
    mean_map = np.mean(read.maps, axis=0)
    assert found["mean"] == pytest.approx(mean_map.mean())
    assert found["area"] == pytest.approx(np.mean([np.exp(entropy(m.ravel())) / m.size for m in read.maps]))
    assert found["map_max"] == read.quantiles(read.column("map_max"))
    assert np.allclose(found["grid_percent"], 100 * blocks(mean_map, 7) / mean_map.sum())
    assert np.sum(found["grid_percent"]) == pytest.approx(100)
    assert found["central_third_percent"] == pytest.approx(100 * blocks(mean_map, 3)[1, 1] / mean_map.sum())
    assert found["central_third_percent"] > 100 / 9  # this teacher likes the centre


def test_gaze_points_are_added_up(dataset: Path) -> None:
    found, read = compute_statistics(str(dataset), 1)[0]["gaze"], Read(dataset)
    counts, points = [len(points) for points in read.points], np.concatenate(read.points)
    assert min(counts) < max(counts) == CAP
    assert found.pop("per_image") == {"mean": pytest.approx(np.mean(counts)), **read.quantiles(counts).expected}
    assert found == {
        "points": len(points),
        "share_without": 0,
        "cap": CAP,
        "share_at_cap": pytest.approx(np.mean([count == CAP for count in counts])),
        "mean_strength": pytest.approx(points[:, 2].mean()),
        "mean_position": pytest.approx(points[:, :2].mean(axis=0)),
        "spread": pytest.approx(points[:, :2].std(axis=0)),
    }


def test_images_are_described(dataset: Path) -> None:
    found, read = compute_statistics(str(dataset), 1)[0]["images"], Read(dataset)
    assert found == {
        "width": read.quantiles(read.column("width")),
        "height": read.quantiles(read.column("height")),
        "turned": 2,
        "reencoded": {"PNG RGB": 1, "WEBP RGB": 2},
    }


def test_class_balance_names_the_extremes_and_the_empty(dataset: Path) -> None:
    found, counts = compute_statistics(str(dataset), 1)[0]["classes"], Counter(Read(dataset).classes)
    assert counts == {0: 13, 1: 10, 2: 12}
    assert found == {
        "classes": 4,
        "fewest": {"samples": 10, "classes": 1, "names": ["class1"]},
        "median": 12,
        "most": {"samples": 13, "classes": 1, "names": ["class0"]},
        "imbalance": pytest.approx(1.3),
        "without_samples": ["class3"],
    }


def test_duplicates_are_found_by_the_checksum_of_their_source(dataset: Path) -> None:
    found, read = compute_statistics(str(dataset), 1)[0]["duplicates"], Read(dataset)
    groups = defaultdict(list)
    for info in read.infos:
        groups[info["source_sha256"]].append(info["source"])
    repeated = {digest: sources for digest, sources in groups.items() if len(sources) > 1}
    largest = sorted(repeated, key=lambda digest: -len(repeated[digest]))
    assert {frozenset(sources) for sources in repeated.values()} == {
        frozenset(["class0/photo000.jpg", "class0/again0.jpg", "class0/again1.jpg", "class0/again2.jpg"]),
        frozenset(["class1/photo001.jpg", "class2/elsewhere.jpg"]),
    }
    assert found == {
        "groups": 2,
        "surplus": 4,
        "groups_across_classes": 1,
        "images_across_classes": 2,
        "largest": [
            {"source_sha256": digest, "images": len(repeated[digest]), "sources": repeated[digest]}
            for digest in largest
        ],
    }


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), max_size=60))
def test_duplicates_are_counted_as_by_hand(images: list[tuple[int, int]]) -> None:
    rows = np.zeros(len(images), ROW)
    rows["digest"] = [bytes([7, digest, 0]) for digest, _ in images]  # S16 must not mistake trailing zeros
    rows["class"] = [index for _, index in images]
    groups: dict[int, list[int]] = defaultdict(list)
    for position, (digest, _) in enumerate(images):
        groups[digest].append(position)
    repeated = sorted((group for group in groups.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))
    across = [group for group in repeated if len({images[position][1] for position in group}) > 1]
    counts, largest = count_duplicates(rows)
    assert counts == {
        "groups": len(repeated),
        "surplus": sum(map(len, repeated)) - len(repeated),
        "groups_across_classes": len(across),
        "images_across_classes": sum(map(len, across)),
    }
    assert [tuple(group) for group in largest] == [(len(g), g[:LARGEST]) for g in repeated[:LARGEST]]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_the_cells_of_a_map_hold_its_mass_whatever_its_size(height: int, width: int, seed: int) -> None:
    attention = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    cells = mass_by_cell(attention)
    assert cells.shape == (CELLS, CELLS)
    assert cells.sum() == pytest.approx(attention.sum() / 255)
    assert np.allclose(mass_by_cell(np.full((height, width), 255, np.uint8)), height * width / CELLS**2)
    if height == width:
        assert np.allclose(cells, blocks(attention / 255, CELLS))


def made_up(points: list[list[float]], **info: Any) -> Sample:
    described: dict[str, Any] = {
        **{"source": "a.jpg", "wnid": "", "width": 64, "height": 48, "exif_orientation": 1, "source_sha256": "0" * 64},
        **{"reencoded_from": "", "teacher": "tests", "map_max": 1.0, "gaze_points": len(points)},
    }
    gaze = np.array(points, np.float32).reshape(len(points), -1) if points else np.zeros((0, 3), np.float32)
    return Sample("000000000", None, None, SampleInfo(**described | info), np.full((8, 8), 255, np.uint8), gaze)


def test_images_without_points_count_as_such() -> None:
    sums = Sums()
    points = [[], [[0.2, 0.4, 1], [0.4, 0.8, 0.5]], [], [[0.6, 0.6, 1]]]
    rows = np.array([sums.add(made_up(one)) for one in points])
    found = summarize_gaze(rows, sums, cap=2)
    assert (found["points"], found["share_without"], found["share_at_cap"]) == (3, 0.5, 0.25)
    assert found["mean_position"] == pytest.approx([0.4, 0.6])
    assert found["spread"] == pytest.approx([np.std([0.2, 0.4, 0.6]), np.std([0.4, 0.8, 0.6])])
    assert found["mean_strength"] == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
    "spoilt",
    [made_up([[0.5, 0.5]]), made_up([[0.5, 0.5, float("nan")]]), made_up([], map_max=float("inf"))],
    ids=["no strengths", "points that are no numbers", "an infinite maximum"],
)
def test_a_sample_without_sense_changes_no_sum(spoilt: Sample) -> None:
    sums = Sums()
    with pytest.raises(ValueError, match="expected finite numbers"):
        sums.add(spoilt)
    assert not sums.maps.any()
    assert not sums.points.any()


def test_a_data_set_without_classes_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = made(photographs(tmp_path / "images", 5), tmp_path / "out", include_images=False)
    assert main([str(output), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "no classes" in printed
    report = json.loads(printed.splitlines()[-1])
    assert (report["classes"], report["samples"]) == (None, 5)
    assert report["duplicates"]["groups_across_classes"] == 0


def test_an_unfinished_data_set_is_counted_so_far_and_said_to_be_unfinished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    plan = planned(photographs(tmp_path / "images", 12, classes=12), output, samples_per_shard=4, map_size=20)
    label(plan, output, range(1, 3))
    assert main([str(output), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed.splitlines()[-1])
    assert "unfinished" in printed.splitlines()[0]
    assert (report["complete"], report["shards"], report["samples"]) == (False, 2, 8)
    labelled = {f"class{index}" for index in Read(output).classes}
    assert len(set(report["classes"]["without_samples"])) == 4
    names = set(plan.classes or [])
    assert set(report["classes"]["without_samples"]) == names - {info["wnid"] for info in Read(output).infos}
    assert labelled <= names


def test_a_later_generation_counts_and_is_unfinished_until_it_is_published(tmp_path: Path) -> None:
    images, output = photographs(tmp_path / "images", 6, classes=2), tmp_path / "out"
    first = planned(images, output, samples_per_shard=4, map_size=20)
    label(first, output)
    storage = LocalStorage(output)
    publish(storage, [first], 0)
    new = photographs(tmp_path / "new", 3, classes=3)
    later, table = make_plan(open_source(str(new)).list(), LabelConfig(map_size=20), TEACHER, str(new), first)
    save_later_plan(storage, later, table)
    assert compute_statistics(str(output), 1)[0]["complete"] is False
    label(later, output)
    report = compute_statistics(str(output), 1)[0]
    assert (report["complete"], report["samples"], report["classes"]["classes"]) == (False, 9, 3)
    publish(storage, [first, later], 0)
    report = compute_statistics(str(output), 1)[0]
    assert (report["complete"], report["shards"], report["samples"]) == (True, 3, 9)
    assert report["duplicates"]["groups"] == 3  # the new photographs are the first three again


def test_a_data_set_of_failures_alone_has_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images/some").mkdir(parents=True)
    (tmp_path / "images/some/empty.jpg").write_bytes(b"")
    output = made(tmp_path / "images", tmp_path / "out")
    assert main([str(output), "--workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["samples"], report["failures"]) == (0, {"empty": 1})
    assert report["classes"]["without_samples"] == ["some"]
    assert (report["classes"]["fewest"], report["maps"]["mean"], report["gaze"]["spread"]) == (None, None, None)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoil_a_map(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IHDR", b"nope", 1))


DAMAGES: dict[str, tuple[Callable[[Path], None], int | None]] = {  # and how many samples are lost, where that is known
    "gone": (lambda path: path.unlink(), 10),
    "emptied": (lambda path: path.write_bytes(b""), 10),
    "cut short": (cut_short, None),
    "one map spoilt": (spoil_a_map, 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_and_the_rest_is_counted(
    dataset: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    spoil, lost = DAMAGES[damage]
    held = len(Read(dataset).infos) - len(Read(dataset, skipped="train-000001.tar").infos)
    spoil(copy / "train-000001.tar")
    assert main([str(copy), "--workers", "1"]) == 1
    output, errors = capsys.readouterr()
    report = json.loads(output.splitlines()[-1])
    assert errors.startswith("train-000001.tar: ")
    assert errors.count("\n") == 1
    assert report["unreadable"] == ["train-000001.tar"]
    assert report["shards"] == 4
    all_samples = len(Read(dataset).infos)
    if lost is None:
        assert all_samples - held <= report["samples"] < all_samples
    else:
        assert report["samples"] == all_samples - min(lost, held)
    if damage == "gone":
        counts = Counter(Read(dataset, skipped="train-000001.tar").classes)
        assert report["classes"]["most"]["samples"] == max(counts.values())


def test_damaged_records_and_manifests_are_named(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    for name in ("records/train-000002.json", "manifest.json"):
        (copy / name).write_bytes(b"{")
    assert main([str(copy), "--workers", "1"]) == 1
    output, errors = capsys.readouterr()
    report = json.loads(output.splitlines()[-1])
    assert report["unreadable"] == ["manifest.json", "records/train-000002.json"]
    assert [line.split(": ")[0] for line in errors.splitlines()] == ["records/train-000002.json", "manifest.json"]
    assert (report["complete"], report["shards"]) == (False, 3)
    assert report["samples"] == len(Read(dataset, skipped="train-000002.tar").infos)


def test_the_program_prints_tables_and_one_line_of_json(dataset: Path, tmp_path: Path) -> None:
    done = run(command(dataset, module="labeler.stats", workers=2, json=tmp_path / "report.json"))
    assert (done.returncode, done.stderr) == (0, "")
    *printed, last = done.stdout.splitlines()
    assert (
        json.loads(last) == json.loads((tmp_path / "report.json").read_text()) == compute_statistics(str(dataset), 1)[0]
    )
    titles = [line for line in printed if line and not line.startswith(" ")]
    assert titles[0] == f"{dataset}: complete"
    sections = ["Data set", "Classes", "Quantiles", "Maps", "Gaze points", "Images", "Duplicates", "Left out"]
    assert titles[1:] == sections
    assert max(map(len, printed)) < 140
    assert any("class3" in line and "without samples" in line for line in printed)
    assert any("class0/photo000.jpg" in line and "4 times" in line for line in printed)


def test_names_cannot_move_the_cursor_of_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = photographs(tmp_path / "images", 2, classes=1)
    evil = images / "\x1b[2J\x07class"
    evil.mkdir()
    (evil / "a\nb.jpg").write_bytes((images / "class0/photo000.jpg").read_bytes())
    output = made(images, tmp_path / "out")
    assert main([str(output), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert set("\x1b\x07").isdisjoint(printed)
    assert "\\u001b[2J\\u0007class/a\\nb.jpg" in printed


def test_without_finished_shards_one_sentence_says_so(tmp_path: Path) -> None:
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


def test_a_file_that_cannot_be_written_is_a_users_mistake(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--json .*: cannot be written: "):
        main([str(dataset), "--workers", "1", "--json", str(tmp_path / "file/report.json")])


def test_the_program_needs_neither_torch_nor_ray() -> None:
    code = "import sys, labeler.stats; sys.exit(bool({'torch', 'ray', 'boto3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
