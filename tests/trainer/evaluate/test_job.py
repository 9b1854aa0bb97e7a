import contextlib
import math
import shutil
from pathlib import Path

import pytest
import torch
import torchvision

from common.errors import UserError
from tests.support.data.datasets import COLORS
from tests.support.data.pictures import write
from tests.support.evaluation import MODEL_NAMES, evaluate, read_class_folders, read_results, read_table
from tests.support.stops import run_until_file_exceeds


def test_evaluation_writes_results_tables_features_and_page(report):
    names = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    tables = {f"{name}.csv" for name in ("glance", "linear", "imagenet-c", "retrieval", "alignment")}
    assert tables | {"results.json", "index.html"} <= names
    saved = {name for name in names if name.startswith("retrieval/")}
    models = ("contrastive-seed-0", "contrastive-attn-teacher-seed-0")
    assert saved == {f"retrieval/{model}-{data}.npz" for model in models for data in ("imagenet", "cifar10")}
    results = read_results(report)
    assert tuple(results) == MODEL_NAMES
    for result in results.values():
        assert {"linear", "imagenet-c", "retrieval", "alignment", "alignment_tests", "checkpoint"} <= result.keys()
        assert {"top1", "top5"} <= result["linear"].keys()
        assert result["imagenet-c"]["fog"].keys() == {"2", "5"}
        assert result["imagenet-c"]["mce"] is None
        assert result["unreadable"] == {}
        assert "without gaussian_noise" in " ".join(result["notes"]["imagenet-c"])


def test_headline_figures_are_those_of_the_suites(report):
    results = read_results(report)
    for row, name in zip(read_table(report / "glance.csv"), MODEL_NAMES, strict=True):
        result = results[name]
        assert (row["model"], row["runs"], row["offline_top1_se"], row["imagenet_c_mean"]) == (name, "1", "", "")
        assert float(row["concurrent_top1"]) == result["linear"]["concurrent"]["top1"]
        assert float(row["offline_top1"]) == result["linear"]["offline"]["top1"]
        assert float(row["cifar10_precision_at_1"]) == result["retrieval"]["cifar10"]["clean"]["precision"][0]
        assert float(row["cc_with_people"]) == result["alignment"][name]["cc"]


def test_saved_features_are_reused_with_the_same_results(report, checkpoints, val, monkeypatch):
    monkeypatch.setattr("trainer.evaluate.job.extract_features", lambda *_: pytest.fail("features were saved"))
    output = report.parent / "again"
    evaluate(checkpoints, output, "--suite=linear", f"--val={val}", f"--features={report / 'features'}")
    before, again = (read_results(folder)[MODEL_NAMES[0]]["linear"] for folder in (report, output))
    assert again == {name: value for name, value in before.items() if name not in ("offline", "knn_20", "knn_200")}


REPLACED = ("glance.csv", "linear.csv", "results.json", "index.html")  # in the order in which an evaluation writes them


def test_readers_of_an_earlier_report_do_not_see_a_part_of_the_next_one(report, checkpoints, val, tmp_path):
    flags = ["--suite=linear", f"--val={val}", f"--features={report / 'features'}"]
    evaluate(checkpoints[:1], tmp_path, *flags)
    before = {name: (tmp_path / name).read_bytes() for name in REPLACED}
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context((tmp_path / name).open("rb")) for name in REPLACED}
        evaluate(checkpoints, tmp_path, *flags)
        assert {name: file.read() for name, file in opened.items()} == before
    assert not [name for name in REPLACED if (tmp_path / name).read_bytes() == before[name]]


@pytest.mark.parametrize("name", ["results.json", "index.html"])
def test_evaluation_that_dies_while_it_writes_a_file_leaves_the_earlier_one(report, checkpoints, val, tmp_path, name):
    flags = ["--suite=linear", f"--val={val}", f"--features={report / 'features'}"]
    evaluate(checkpoints[:1], tmp_path, *flags)
    before = {file: (tmp_path / file).read_bytes() for file in REPLACED}
    run_until_file_exceeds(len(before[name]), evaluate, checkpoints, tmp_path, *flags)
    unchanged = tuple(file for file in REPLACED if (tmp_path / file).read_bytes() == before[file])
    assert unchanged == REPLACED[REPLACED.index(name) :]
    evaluate(checkpoints, tmp_path, *flags)
    assert tuple(read_results(tmp_path)) == MODEL_NAMES
    assert len((tmp_path / name).read_bytes()) > len(before[name])
    assert {path.name for path in tmp_path.iterdir()} == set(REPLACED), "unfinished files remain"


def test_unreadable_images_are_named_in_results_and_page(checkpoints, val, tmp_path):
    contents = read_class_folders(val) | {"red/000.jpg": b"no image"}
    evaluate(checkpoints[:1], tmp_path / "out", "--suite=linear", f"--val={write(tmp_path / 'val', contents)}")
    result = read_results(tmp_path / "out")[MODEL_NAMES[0]]
    assert list(result["unreadable"]["val"]) == ["red/000.jpg"]
    assert result["linear"]["images"] == 23
    assert result["left_out"] == {}
    assert "val: 1 unreadable image excluded: red/000.jpg (not_an_image" in (tmp_path / "out/index.html").read_text()


@pytest.mark.parametrize("features", [None, "OUT/cache", "OUT"])
def test_interrupted_evaluation_is_resumed(features, checkpoints, val, tmp_path, monkeypatch):
    flags = ["--suite=linear,retrieval", f"--val={val}", "--queries=5"]
    flags += [f"--features={features.replace('OUT', str(tmp_path / 'out'))}"] if features else []
    with monkeypatch.context() as patch:
        patch.setattr("trainer.evaluate.job.summarize_models", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(checkpoints[:1], tmp_path / "out", *flags)
    assert not (tmp_path / "out/glance.csv").exists()
    monkeypatch.setattr("trainer.evaluate.job.extract_features", lambda *_: pytest.fail("features were saved"))
    evaluate(checkpoints[:1], tmp_path / "out", *flags)
    assert "retrieval" in read_results(tmp_path / "out")[MODEL_NAMES[0]]


def test_report_may_lie_in_the_folder_of_a_run_but_not_be_mixed_with_it(checkpoints, val, tmp_path):
    run = shutil.copytree(Path(checkpoints[0]).parents[1], tmp_path / "run")
    evaluate([str(run / "checkpoints/best")], run / "report", "--suite=linear", f"--val={val}")
    assert (run / "report/index.html").exists()
    with pytest.raises(UserError, match=r"expected a new folder, or a report to resume; found other files, such as"):
        evaluate([str(run / "checkpoints/best")], run, "--suite=linear", f"--val={val}")


@pytest.mark.parametrize("name", ["train-000000.tar", "per_image.csv", "photos/deep/cat.jpg"])
def test_folder_with_other_files_is_refused(name, checkpoints, val, tmp_path):
    """For example a data set, or the report of labeler.teacher.evaluate, which has files of the same names."""
    write(tmp_path / "out", {"results.json": b"{}", "index.html": b"", name: b"1"})
    with pytest.raises(UserError, match="expected a new folder, or a report to resume; found other files"):
        evaluate(checkpoints[:1], tmp_path / "out", "--suite=linear", f"--val={val}")
    assert (tmp_path / "out/results.json").read_bytes() == b"{}"


def test_plain_weights_file_is_a_baseline(val, human, tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "supervised.pth")
    flags = ["--backbone=resnet18", "--image-size=32", "--queries=4", f"--val={val}", f"--human-data={human}"]
    evaluate([str(tmp_path / "supervised.pth")], tmp_path / "out", *flags)
    result = read_results(tmp_path / "out")["supervised"]
    assert result.keys() >= {"linear", "retrieval", "alignment"}
    assert "imagenet-c" not in result
    assert "no attention read-out" in result["notes"]["alignment"][0]
    assert math.isfinite(result["alignment"]["supervised"]["cc"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite=linear"], "--suite linear needs --val"),
        (["--suite=imagenet-c"], "--suite imagenet-c needs --imagenet-c or --val"),
        (["--val=VAL", "--probe-kind=offline"], "--probe-kind offline needs --train: name images to train offline"),
        (["--val=ONE", "--suite=linear"], "--val: expected images of at least two classes, found only red"),
        ([], "nothing to measure: name data with --val"),
        (["--val=VAL", "--compare=a=b.csv"], "--compare applies to the suite alignment only, .* needs --human-data"),
        (["--val=VAL"], r"retrieval on imagenet: val has 24 images, expected more than the 5,000 queries"),
        (["--val=VAL", "--queries=24"], "expected more than the 24 queries; ask for fewer with --queries"),
        (
            ["--val=OTHER", "--suite=linear"],
            r"4 classes of contrastive seed 0.s training, .* missing \(yellow\)",
        ),
        (["--val=VAL", "--suite=linear", "--train=OTHER"], r"4 classes of --train, .* missing \(gray\)"),
        (["--human-data=csv:absent"], "--human-data csv:absent: there is no folder absent"),
        (["--val=VAL", "--suite=imagenet-c", "--corruptions=fogg"], "--corruptions fogg: expected some of"),
    ],
)
def test_mistakes_are_reported_before_anything_is_measured(flags, message, checkpoints, val, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.evaluate.job.extract_features", lambda *_: pytest.fail("features were extracted"))
    contents = {name.replace(COLORS[3], "gray"): content for name, content in read_class_folders(val).items()}
    other = write(tmp_path / "other", contents)
    one = write(tmp_path / "one", {name: content for name, content in contents.items() if name.startswith("red/")})
    folders = {"VAL": val, "OTHER": other, "ONE": one}
    for name, folder in folders.items():
        flags = [flag.replace(f"={name}", f"={folder}") for flag in flags]
    with pytest.raises(UserError, match=message):
        evaluate(checkpoints[:1], tmp_path / "out", *flags)
