import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.alignment import METRICS
from common.errors import UserError
from common.saliency import cc, nss
from labeler.teacher.evaluate import main
from labeler.teacher.evaluation.predict import predict_map
from labeler.teacher.evaluation.summary import PREDICTIONS
from labeler.teacher.training.data import open_training_data
from labeler.teacher.weights import load_teacher
from tests.support.data.fixation_data import paint_human_maps, random_fixations, write_fixation_data

ROOT = Path(__file__).parents[4]
TEACHER = "tests.support.teachers:gradient_teacher"


def evaluate(*arguments: object) -> None:
    assert main(["--device", "cpu", *map(str, arguments)]) == 0


def load_strict_json(text: str) -> Any:
    """Load JSON that must not hold NaN or infinity."""

    def reject(constant: str) -> None:
        raise AssertionError(f"{constant} is not valid JSON")

    return json.loads(text, parse_constant=reject)


def read_rows(output: Path) -> list[dict[str, str]]:
    with (output / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_evaluation_prints_tables_and_json_and_writes_three_files(tmp_path: Path, capsys) -> None:
    locations = [
        write_fixation_data(tmp_path / name, random_fixations(images, seed=images))
        for name, images in (("a", 3), ("b", 2))
    ]
    output = tmp_path / "out"
    evaluate("--teacher", TEACHER, "--data", locations[0], "--data", locations[1], "--output", output)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "mean [95 % interval]" in line] == [
        f"{locations[0]}: 3 images, mean [95 % interval]",
        f"{locations[1]}: 2 images, mean [95 % interval]",
    ]
    report = load_strict_json(lines[-1])
    assert report["teacher"]["name"] == TEACHER
    assert len(report["teacher"]["sha256"]) == 64
    assert list(report["data"]) == locations
    for summary in report["data"].values():
        for prediction in PREDICTIONS:
            for metric in METRICS:
                low, high = summary[prediction][metric]["ci95"]
                assert low <= summary[prediction][metric]["mean"] <= high
    results = load_strict_json((output / "results.json").read_text())
    assert results["data"] == report["data"]
    assert [len(images) for images in results["per_image"].values()] == [3, 2]
    names = [f"photo{index:02}.jpg" for index in range(3)]
    expected = [(locations[0], name) for name in names] + [(locations[1], name) for name in names[:2]]
    assert [(row["data"], row["image"]) for row in read_rows(output)] == expected
    means = np.mean([float(row["cc"]) for row in read_rows(output)[:3]])
    assert report["data"][locations[0]]["teacher"]["cc"]["mean"] == pytest.approx(means, abs=1e-5)
    assert (output / "index.html").read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in output.iterdir()) == ["index.html", "per_image.csv", "results.json"]


def test_undefined_scores_are_null(tmp_path: Path, capsys) -> None:
    location = write_fixation_data(tmp_path / "data", random_fixations(images=1, subjects=1))
    evaluate("--teacher", TEACHER, "--data", location, "--output", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    summary = load_strict_json(lines[-1])["data"][location]
    for metric in ("auc_shuffled", "shuffled_auc", "cc_permuted", "cc_center", "gain"):
        assert summary["teacher"][metric] == {"mean": None, "ci95": None, "images": 0}
    assert summary["human_split_half"]["cc"]["mean"] is None
    assert summary["without_split_half"] == 1
    [row] = read_rows(tmp_path / "out")
    assert row["auc_shuffled"] == row["shuffled_auc"] == row["cc_permuted"] == row["human_split_half_cc"] == ""
    results = load_strict_json((tmp_path / "out" / "results.json").read_text())
    assert results["per_image"][location][0]["human_split_half"] is None


def test_names_file_restricts_images_and_does_not_change_their_scores(tmp_path: Path) -> None:
    location = write_fixation_data(tmp_path / "data", random_fixations(images=4))
    (tmp_path / "names.txt").write_text("photo03.jpg\nphoto01.jpg\n")
    evaluate("--teacher", TEACHER, "--data", location, "--output", tmp_path / "all")
    evaluate("--teacher", TEACHER, "--data", location, "--output", tmp_path / "some", "--names", tmp_path / "names.txt")
    assert read_rows(tmp_path / "some") == read_rows(tmp_path / "all")[1::2]


def test_repeated_evaluation_overwrites_files_with_the_same_bytes(tmp_path: Path) -> None:
    location, output = write_fixation_data(tmp_path / "data", random_fixations(images=2, subjects=5)), tmp_path / "out"
    contents = []
    for _ in range(2):
        evaluate("--teacher", TEACHER, "--data", location, "--output", output)
        contents.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert contents[0] == contents[1]


def test_perfect_teacher_scores_1_and_constant_teacher_scores_0(tmp_path: Path, capsys) -> None:
    location = write_fixation_data(tmp_path / "data", random_fixations(images=3))
    paint_human_maps(tmp_path / "data")
    means = []
    for name in ("Brightness", "Flat"):
        evaluate("--teacher", f"tests.support.simple_teachers:{name}", "--data", location, "--output", tmp_path / name)
        summary = load_strict_json(capsys.readouterr().out.splitlines()[-1])["data"][location]
        means.append(summary["teacher"]["cc"]["mean"])
    assert means[0] > 0.99
    assert means[1] == 0
    assert summary["constant_maps"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is needed"),
        (["--data", "csv:absent"], "there is no folder absent"),
        (["--data", "mit1003:x"], "expected FORMAT:FOLDER"),
        (["--data", "DATA", "--seed", "-1"], "--seed: expected 0 or more, found -1"),
        (["--data", "DATA", "--teacher", "unknown"], "--teacher unknown: expected bundled, attention-center"),
        (["--data", "DATA", "--names", "absent.txt"], "--names absent.txt: cannot be read"),
        (["--data", "DATA", "--output", "DATA_FILE"], "cannot write to"),
        (
            ["--data", "DATA", "--teacher", "tests.support.simple_teachers:nan_teacher"],
            "photo00.jpg: the teacher's map of this image",
        ),
        (
            ["--data", "DATA", "--teacher", "tests.support.simple_teachers:raising_teacher"],
            "RuntimeError: too dark for me",
        ),
    ],
)
def test_user_mistake_is_reported_before_a_page_is_written(arguments: list[str], message: str, tmp_path: Path) -> None:
    location = write_fixation_data(tmp_path / "data", random_fixations(images=2))
    table, image = tmp_path / "data" / "fixations.csv", tmp_path / "data" / "images" / "photo00.jpg"
    Image.new("RGB", (64, 48)).save(image)
    paths = {"DATA": location, "DATA_FILE": str(table)}
    defaults = ["--teacher", TEACHER, "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match=message):
        main([*defaults, *(paths.get(argument, argument) for argument in arguments)])
    assert not (tmp_path / "out" / "index.html").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_a_user_error(tmp_path: Path) -> None:
    location = write_fixation_data(tmp_path / "data", random_fixations(images=1))
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no usable GPU"):
        main(["--data", location, "--teacher", TEACHER, "--device", "cuda", "--output", str(tmp_path / "out")])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and TEST_GPU=1")
def test_gpu_scores_equal_cpu_scores(tmp_path: Path) -> None:
    location = write_fixation_data(tmp_path / "data", random_fixations(images=3, subjects=4))
    for device in ("cpu", "cuda"):
        output = tmp_path / device
        assert main(["--data", location, "--teacher", TEACHER, "--device", device, "--output", str(output)]) == 0
    for cpu, cuda in zip(read_rows(tmp_path / "cpu"), read_rows(tmp_path / "cuda"), strict=True):
        assert [float(cuda[name]) for name in METRICS] == pytest.approx(
            [float(cpu[name]) for name in METRICS], abs=1e-3
        )


def test_help_does_not_import_torch_and_a_mistake_exits_with_2() -> None:
    program = (
        "import sys\n"
        "from labeler.teacher import evaluate\n"
        "try:\n    evaluate.main(['--help'])\n"
        "except SystemExit as end:\n    sys.exit(end.code or ('torch' in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for flag in ("--teacher", "--data", "--names", "--output", "--device", "--seed"):
        assert flag in shown.stdout
    failed = subprocess.run(
        [sys.executable, "-m", "labeler.teacher.evaluate"], cwd=ROOT, capture_output=True, text=True
    )
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: --data is needed")


def test_published_teacher_beats_the_center_prior_but_not_humans(shared_data: Path, tmp_path: Path, capsys) -> None:
    location, names = f"osie-eye:{shared_data / 'osie'}", tmp_path / "names.txt"
    names.write_text("".join(f"{number}.jpg\n" for number in range(1001, 1301, 50)))
    weights = shared_data / "attention-center" / "center.tflite"
    evaluate("--teacher", weights, "--data", location, "--names", names, "--output", tmp_path / "out")
    report = load_strict_json(capsys.readouterr().out.splitlines()[-1])
    assert report["teacher"]["name"] == "attention-center"
    teacher, prior, humans = (report["data"][location][name] for name in PREDICTIONS)
    for metric in ("cc", "nss", "sim", "auc_judd", "shuffled_auc"):
        assert prior[metric]["mean"] < teacher[metric]["mean"] < humans[metric]["mean"]
    assert humans["cc"]["mean"] == pytest.approx(0.88, abs=0.06)


def test_bundled_teacher_reaches_its_documented_scores_on_held_out_images(shared_data: Path) -> None:
    images = open_training_data([f"osie-eye:{shared_data / 'osie'}"], [], 0.2, 0).validation.popitem()[1]
    teacher = load_teacher("bundled")
    scores = []
    for image in images:
        predicted = predict_map(teacher, image, torch.device("cpu"))[None]
        human_map = image.attention_map(*predicted.shape[1:])[None]
        scores.append((cc(predicted, human_map).item(), nss(predicted, [image.fixations]).item()))
    means = np.mean(scores, axis=0)
    assert len(scores) == 100
    assert means[0] >= 0.68
    assert means[1] >= 2.5
