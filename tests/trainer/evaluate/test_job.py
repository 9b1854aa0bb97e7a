import csv
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from common.errors import UserError
from common.fixations import open_fixations
from common.saliency import score_map
from common.settings import load_settings
from tests.support.datasets import COLORS
from tests.support.fixation_data import random_fixations, write_fixation_data
from tests.support.pictures import write
from tests.trainer.evaluate.conftest import val_folder
from trainer.checkpoint import load_trained
from trainer.config import TrainSettings
from trainer.data.crops import center_crop, resize_frame
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.job import run_evaluation
from trainer.job import run_training

ROOT = Path(__file__).parents[3]
NAMES = ("contrastive seed 0", "contrastive-attn-teacher seed 0")


def evaluate(checkpoints, output, *flags):
    settings = load_settings(EvaluateSettings, [*checkpoints, f"--output={output}", "--readers=0", *map(str, flags)])
    settings.check()
    return run_evaluation(settings)


def strict(path):
    """JSON as the standard has it: no NaN."""
    return json.loads(path.read_text(), parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def human(tmp_path_factory):
    return write_fixation_data(tmp_path_factory.mktemp("human"), random_fixations(images=8))


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    return val_folder(tmp_path_factory.mktemp("cifar") / "", images=4)


@pytest.fixture(scope="module")
def cifar_c(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar-c")
    np.save(folder / "fog.npy", np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(12) % 3, 5))
    return folder


@pytest.fixture(scope="module")
def report(checkpoints, training_data, val, human, cifar, cifar_c, tmp_path_factory):
    """All suites on two checkpoints and a table of another model's scores."""
    folder = tmp_path_factory.mktemp("reports")
    lines = [f"csv:elsewhere,photo{number:02}.jpg,{0.1 * number}\n" for number in range(6)]
    (folder / "other.csv").write_text("data,image,cc\n" + "".join(lines))
    flags = {
        "suite": "linear,imagenet-c,retrieval,alignment",
        "train": training_data,
        "val": val,
        "cifar": cifar,
        "cifar-c": cifar_c,
        "human-data": human,
        "compare": f"other={folder / 'other.csv'}",
        "queries": 5,
        "corruptions": "fog",
        "severities": "2,5",
        "probe-epochs": 3,
    }
    evaluate(checkpoints, folder / "out", *(f"--{name}={value}" for name, value in flags.items()))
    return folder / "out"


def test_a_run_leaves_results_tables_features_and_a_page(report):
    names = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    tables = {f"{name}.csv" for name in ("glance", "linear", "imagenet-c", "retrieval", "alignment")}
    assert tables | {"results.json", "index.html"} <= names
    kept = {name for name in names if name.startswith("retrieval/")}
    models = ("contrastive-seed-0", "contrastive-attn-teacher-seed-0")
    assert kept == {f"retrieval/{model}-{data}.npz" for model in models for data in ("imagenet", "cifar10")}
    results = strict(report / "results.json")
    assert tuple(results) == NAMES
    for found in results.values():
        assert {"linear", "imagenet-c", "retrieval", "alignment", "alignment_tests", "checkpoint"} <= found.keys()
        assert {"top1", "top5"} <= found["linear"].keys()
        assert found["imagenet-c"]["fog"].keys() == {"2", "5"}
        assert found["imagenet-c"]["mce"] is None
        assert found["unreadable"] == {}
        assert "without gaussian_noise" in " ".join(found["notes"]["imagenet-c"])


def test_the_main_figures_are_those_of_the_suites(report):
    results = strict(report / "results.json")
    for row, name in zip(rows(report / "glance.csv"), NAMES, strict=True):
        found = results[name]
        assert (row["model"], row["runs"], row["offline_top1_se"], row["imagenet_c_mean"]) == (name, "1", "", "")
        assert float(row["concurrent_top1"]) == found["linear"]["concurrent"]["top1"]
        assert float(row["offline_top1"]) == found["linear"]["offline"]["top1"]
        assert float(row["cifar10_precision_at_1"]) == found["retrieval"]["cifar10"]["clean"]["precision"][0]
        assert float(row["cc_with_people"]) == found["alignment"][name]["cc"]


def test_top1_is_how_often_the_models_own_logits_are_right(report, checkpoints, val):
    pictures = FolderImages("", str(val), "val")
    images = torch.stack([center_crop(pictures.read(index), 32) for index in range(24)]).float() / 255
    for name, location in zip(NAMES, checkpoints, strict=True):
        trained = load_trained(location)
        with torch.no_grad():
            best = trained.model.logits(images).argmax(1).tolist()
        right = [trained.classes[index] == file.split("/")[0] for index, file in zip(best, pictures.names, strict=True)]
        linear = strict(report / "results.json")[name]["linear"]
        assert linear["top1"] == linear["concurrent"]["top1"] == pytest.approx(np.mean(right))
        assert linear["top5"] == 1  # of four classes
        assert 0 <= linear["offline"]["top1"] <= 1


def test_retrieval_follows_from_the_features_labels_and_queries_that_are_kept(report):
    for name in NAMES:
        file = np.load(report / "retrieval" / f"{name.replace(' ', '-')}-imagenet.npz")
        features, labels, queries = file["features"], file["labels"], file["queries"]
        assert (len(features), len(queries)) == (24, 5)
        base = np.setdiff1d(np.arange(24), queries)
        search = NearestNeighbors(n_neighbors=19, metric="cosine", algorithm="brute").fit(features[base])
        hits = labels[base][search.kneighbors(features[queries], return_distance=False)] == labels[queries][:, None]
        curve = strict(report / "results.json")[name]["retrieval"]["imagenet"]["clean"]
        assert curve["k"] == [1, 2, 5, 10, 19]
        for k, precision, recall in zip(curve["k"], curve["precision"], curve["recall"], strict=True):
            assert precision == pytest.approx(hits[:, :k].mean(), abs=1e-6)
            assert recall == pytest.approx((hits[:, :k].sum(1) / hits.sum(1)).mean(), abs=1e-6)


def test_corrupted_sets_are_searched_by_severity_and_corruption(report):
    found = strict(report / "results.json")[NAMES[0]]["retrieval"]
    for data in ("imagenet", "cifar10"):
        assert set(found[data]) == {"clean", "2", "5", "corruptions"}
        assert found[data]["corruptions"]["fog"]["5"] == found[data]["5"]  # the mean over one corruption


def test_alignment_is_pearsons_correlation_with_students_tests(report, checkpoints, human):
    table = rows(report / "alignment.csv")
    values = {name: [float(row["cc"]) for row in table if row["model"] == name] for name in (*NAMES, "other")}
    for name in NAMES:
        results = strict(report / "results.json")[name]
        found = results["alignment"][name]
        assert set(results["alignment"]) == {name, "other"}
        expected = stats.ttest_1samp(values[name], 0)
        assert (found["cc"], found["n"]) == (pytest.approx(np.mean(values[name])), 8)
        assert (found["t"], found["p"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert results["alignment"]["other"]["n"] == 6
    tests = {tuple(test["models"]): test for test in results["alignment_tests"]}
    pair = tests[NAMES]
    assert pair["welch"]["t"] == pytest.approx(
        stats.ttest_ind(values[NAMES[0]], values[NAMES[1]], equal_var=False).statistic
    )
    assert pair["paired"]["p"] == pytest.approx(stats.ttest_rel(values[NAMES[0]], values[NAMES[1]]).pvalue)


def test_an_images_cc_is_that_of_the_models_map_of_the_whole_frame(report, checkpoints, human):
    model = load_trained(checkpoints[0]).model
    image = open_fixations(human).images[3]
    with torch.no_grad():
        attention = model.attention(resize_frame(image.pixels(), 32)[None].float() / 255)
    resized = torch.nn.functional.interpolate(
        attention[None], (image.height, image.width), mode="bilinear", antialias=True
    )
    truth = image.attention_map(image.height, image.width)
    [row] = [row for row in rows(report / "alignment.csv") if (row["model"], row["image"]) == (NAMES[0], image.name)]
    assert float(row["cc"]) == pytest.approx(np.corrcoef(resized.flatten(), truth.flatten())[0, 1], abs=1e-4)


def test_the_page_is_whole_well_formed_and_asks_for_nothing(report):
    text = (report / "index.html").read_text()
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag not in ("img", "input", "meta", "wbr"):
                open_tags.append(tag)
            for name, value in attributes:
                assert not (name in ("src", "href", "xlink:href") and not value.startswith(("data:", "#")))

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(text)
    assert open_tags == []
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "At a glance",
        "Checkpoints",
        "Classification",
        "Robustness: ImageNet-C",
        "Retrieval",
        "Attention alignment",
    ]
    assert all(name in text for name in (*NAMES, "other"))


def test_the_same_command_again_gives_the_same_and_extracts_nothing(report, checkpoints, val, monkeypatch):
    monkeypatch.setattr("trainer.evaluate.job.extract_here", lambda *_: pytest.fail("features were kept"))
    output = report.parent / "again"
    evaluate(checkpoints, output, "--suite=linear", f"--val={val}", f"--features={report / 'features'}")
    before, again = (strict(folder / "results.json")[NAMES[0]]["linear"] for folder in (report, output))
    assert again == {name: value for name, value in before.items() if name != "offline"}


def test_unreadable_images_are_named_in_results_and_page(checkpoints, val, tmp_path):
    contents = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in val.rglob("*.jpg")}
    contents["red/000.jpg"] = b"no image"
    evaluate(checkpoints[:1], tmp_path / "out", "--suite=linear", f"--val={write(tmp_path / 'val', contents)}")
    found = strict(tmp_path / "out/results.json")[NAMES[0]]
    assert list(found["unreadable"]["val"]) == ["red/000.jpg"]
    assert found["linear"]["images"] == 23
    assert found["left_out"] == {}
    assert "val: 1 image excluded, because it cannot be read: red/000.jpg" in (tmp_path / "out/index.html").read_text()


def test_human_images_that_cannot_be_used_are_told_in_results_and_page(checkpoints, tmp_path):
    human = write_fixation_data(tmp_path / "human", random_fixations(images=4))
    (tmp_path / "human/images/photo00.jpg").unlink()
    (tmp_path / "human/images/photo01.jpg").write_bytes(b"")
    evaluate(checkpoints[:1], tmp_path / "out", f"--human-data={human}")
    found = strict(tmp_path / "out/results.json")[NAMES[0]]
    reasons = ("images that have fixations but no file", "images whose file cannot be read")
    assert found["alignment"][NAMES[0]]["n"] == 2
    assert found["left_out"] == {human: dict.fromkeys(reasons, 1)}
    notes = [
        f"Excluded from {human}: 1 image with fixations but without a file (first: photo00.jpg)",
        f"Excluded from {human}: 1 image whose file cannot be read (first: photo01.jpg)",
    ]
    assert found["notes"]["alignment"] == notes
    assert all(note in (tmp_path / "out/index.html").read_text() for note in notes)


def test_published_corruptions_are_judged_whole_by_the_clean_classifier(checkpoints, val, tmp_path):
    contents = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in val.rglob("*.jpg")}
    write(tmp_path / "imagenet-c/fog/3", contents)
    flags = ["--corruptions=fog", "--severities=3", "--queries=4", f"--imagenet-c={tmp_path / 'imagenet-c'}"]
    evaluate(checkpoints[:1], tmp_path / "out", *flags)
    trained, pictures = load_trained(checkpoints[0]), FolderImages("", str(val), "val")
    images = torch.stack([resize_frame(pictures.read(index), 32) for index in range(24)]).float() / 255
    with torch.no_grad():
        best = trained.model.logits(images).argmax(1).tolist()
    right = [trained.classes[index] == file.split("/")[0] for index, file in zip(best, pictures.names, strict=True)]
    found = strict(tmp_path / "out/results.json")[NAMES[0]]
    assert found["imagenet-c"]["fog"] == {"3": pytest.approx(np.mean(right))}
    assert set(found["retrieval"]["imagenet"]) == {"3", "corruptions"}


def test_contracams_maps_are_made_of_several_images_together(training_data, human, tmp_path):
    flags = [
        "--backbone=resnet18",
        "--image-size=40",
        "--batch-size=16",
        "--epochs=1",
        "--recipe=contrastive-contracam",
    ]
    run_training(load_settings(TrainSettings, [f"--data={training_data}", f"--output={tmp_path / 'run'}", *flags]))
    checkpoint = str(tmp_path / "run/checkpoints/last")
    evaluate([checkpoint], tmp_path / "out", "--suite=alignment", f"--human-data={human}")
    images = open_fixations(human).images
    model = load_trained(checkpoint).model
    with torch.no_grad():
        maps = model.attention(torch.stack([resize_frame(image.pixels(), 40) for image in images]).float() / 255)
    table = rows(tmp_path / "out/alignment.csv")
    assert [row["image"] for row in table] == [image.name for image in images]
    for row, image, found in zip(table, images, maps, strict=True):
        assert float(row["cc"]) == pytest.approx(
            score_map(found, image.attention_map(image.height, image.width), image.fixations)["cc"], abs=1e-4
        )

    one = write_fixation_data(tmp_path / "one", random_fixations(images=1))
    with pytest.raises(UserError, match=r"contrastive-contracam seed 0: .* expected two or more at once, found one"):
        evaluate([checkpoint], tmp_path / "none", "--suite=alignment", f"--human-data={one}")


def test_a_model_that_predicts_no_attention_is_left_out_of_alignment_and_named(
    checkpoints, human, tmp_path, monkeypatch
):
    from trainer.objectives import AttentionObjective

    attention = AttentionObjective.attention
    monkeypatch.setattr(
        AttentionObjective, "attention", lambda part, *given: attention(part, *given) if part.guides_backbone else None
    )
    evaluate(checkpoints, tmp_path / "out", f"--human-data={human}")
    found = strict(tmp_path / "out/results.json")
    assert "alignment" not in found[NAMES[0]]
    assert list(found[NAMES[1]]["alignment"]) == [NAMES[1]]
    assert found[NAMES[0]]["notes"]["alignment"] == [f"{NAMES[0]} predicts no attention."]
    with pytest.raises(UserError, match="expected a model that predicts attention, found none among"):
        evaluate(checkpoints[:1], tmp_path / "out", f"--human-data={human}")


def test_a_plain_weights_file_is_measured_as_a_baseline(val, human, tmp_path):
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), tmp_path / "supervised.pth")
    flags = ["--backbone=resnet18", "--image-size=32", "--queries=4", f"--val={val}", f"--human-data={human}"]
    evaluate([str(tmp_path / "supervised.pth")], tmp_path / "out", *flags)
    found = strict(tmp_path / "out/results.json")["supervised"]
    assert found.keys() >= {"linear", "retrieval", "alignment"}
    assert "imagenet-c" not in found
    assert "no attention read-out" in found["notes"]["alignment"][0]
    assert math.isfinite(found["alignment"]["supervised"]["cc"])


def test_a_classifier_of_other_classes_without_names_gives_way_to_an_offline_probe(val, training_data, tmp_path):
    import torchvision

    weights = str(tmp_path / "thousand.pth")
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    flags = ["--suite=linear", "--backbone=resnet18", "--image-size=32", "--probe-epochs=2", f"--val={val}"]
    evaluate([weights], tmp_path / "out", *flags, f"--train={training_data}")
    found = strict(tmp_path / "out/results.json")["thousand"]
    assert found["linear"].keys() & {"concurrent", "offline"} == {"offline"}
    reason = "knows 1,000 classes without their names, found 4 class folders"
    assert found["notes"]["linear"] == [f"thousand {reason}: only an offline probe is measured."]
    with pytest.raises(UserError, match=f"{reason}; expected as many, .* with --train"):
        evaluate([weights], tmp_path / "none", *flags)


def test_a_model_whose_maps_are_no_numbers_is_named(human, tmp_path):
    import torchvision

    weights = {name: w * float("nan") for name, w in torchvision.models.resnet18().state_dict().items()}
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"nan\.pth: expected finite numbers as attention, found NaN or infinity"):
        evaluate([str(tmp_path / "nan.pth")], tmp_path / "out", "--backbone=resnet18", f"--human-data={human}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite=linear"], "--suite linear needs --val"),
        (["--suite=imagenet-c"], "--suite imagenet-c needs --imagenet-c or --val"),
        ([], "nothing to measure: name data with --val"),
        (["--val=VAL", "--compare=a=b.csv"], "--compare is for the suite alignment"),
        (["--val=VAL"], r"retrieval on imagenet: val has 24 images, expected more than the 5,000 queries"),
        (["--val=VAL", "--queries=24"], "expected more than the 24 queries; ask for fewer with --queries"),
        (
            ["--val=OTHER", "--suite=linear"],
            r"4 classes of contrastive seed 0.s training, .* missing \(yellow\)",
        ),
        (["--val=VAL", "--suite=linear", "--train=OTHER"], r"4 classes of --train, .* missing \(grey\)"),
        (["--human-data=csv:absent"], "--human-data csv:absent: there is no folder absent"),
        (["--val=VAL", "--suite=imagenet-c", "--corruptions=fogg"], "--corruptions fogg: expected some of"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_measured(flags, message, checkpoints, val, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.evaluate.job.extract_here", lambda *_: pytest.fail("too late"))
    contents = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in val.rglob("*.jpg")}
    other = write(tmp_path / "other", {name.replace(COLORS[3], "grey"): content for name, content in contents.items()})
    given = [flag.replace("VAL", str(val)).replace("OTHER", str(other)) for flag in flags]
    with pytest.raises(UserError, match=message):
        evaluate(checkpoints[:1], tmp_path / "out", *given)


def test_help_needs_no_torch_and_a_mistake_exits_with_2():
    program = (
        "import sys\nfrom common.settings import load_settings\nfrom trainer.evaluate.config import EvaluateSettings\n"
        "try:\n    load_settings(EvaluateSettings, ['--help'])\n"
        "except SystemExit as end:\n    sys.exit(end.code or ('torch' in sys.modules or 'ray' in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    wanted = "suite train val imagenet-c cifar cifar-c queries human-data compare image-size seed output backbone"
    assert all(f"--{flag} " in shown.stdout for flag in wanted.split())
    command = [sys.executable, "-m", "trainer.evaluate", "x", "--suite", "linear"]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (failed.returncode, failed.stderr) == (2, "error: --suite linear needs --val\n")


def test_what_is_wrong_in_a_list_is_told_by_its_flag():
    with pytest.raises(UserError, match=r"^--severities: .* less than or equal to 5, found 9$"):
        load_settings(EvaluateSettings, ["checkpoint", "--severities=1,9"])
