import numpy as np
import pytest
import torch
import torchvision
from scipy import stats

from common.alignment import METRICS
from common.errors import UserError
from common.fixations import open_fixations
from common.saliency import score_map
from common.settings import load_settings
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.evaluation import MODEL_NAMES, evaluate, read_results, read_table
from trainer.checkpoint import load_trained
from trainer.config import TrainSettings
from trainer.data.crops import resize_frame
from trainer.job import run_training
from trainer.objectives import AttentionObjective


def test_tests_between_models_are_those_of_scipy(report):
    table = read_table(report / "alignment.csv")
    cc = {name: [float(row["cc"]) for row in table if row["model"] == name] for name in (*MODEL_NAMES, "other")}
    for name in MODEL_NAMES:
        results = read_results(report)[name]
        summary = results["alignment"][name]
        assert set(results["alignment"]) == {name, "other"}
        expected = stats.ttest_1samp(cc[name], 0)
        assert (summary["cc"], summary["n"]) == (pytest.approx(np.mean(cc[name])), 8)
        assert (summary["t"], summary["p"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert results["alignment"]["other"]["n"] == 6
    tests = {tuple(test["models"]): test for test in results["alignment_tests"]}
    first, second = (cc[name] for name in MODEL_NAMES)
    welch = stats.ttest_ind(first, second, equal_var=False)
    assert tests[MODEL_NAMES]["welch"]["t"] == pytest.approx(welch.statistic)
    assert tests[MODEL_NAMES]["paired"]["p"] == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_cc_is_that_of_the_models_map_of_the_whole_frame(checkpoints, human, tmp_path):
    evaluate(checkpoints, tmp_path, "--suite=alignment", f"--human-data={human}", "--readout=as-trained")
    model = load_trained(checkpoints[0]).model
    image = open_fixations(human).images[3]
    with torch.no_grad():
        attention = model.attention(resize_frame(image.pixels(), 32)[None].float() / 255)
    resized = torch.nn.functional.interpolate(
        attention[None], (image.height, image.width), mode="bilinear", antialias=True
    )
    human_map = image.attention_map(image.height, image.width)
    table = read_table(tmp_path / "alignment.csv")
    [row] = [row for row in table if (row["model"], row["image"]) == (MODEL_NAMES[0], image.name)]
    assert float(row["cc"]) == pytest.approx(np.corrcoef(resized.flatten(), human_map.flatten())[0, 1], abs=1e-4)


def test_contracam_maps_are_computed_for_several_images_together(training_data, human, tmp_path):
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
    table = read_table(tmp_path / "out/alignment.csv")
    assert [row["image"] for row in table] == [image.name for image in images]
    for row, image, attention in zip(table, images, maps, strict=True):
        scores = score_map(attention, image.attention_map(image.height, image.width), image.fixations)
        assert float(row["cc"]) == pytest.approx(scores["cc"], abs=1e-4)

    single = write_fixation_data(tmp_path / "single", random_fixations(images=1))
    with pytest.raises(UserError, match=r"contrastive-contracam seed 0: .* expected two or more at once, found one"):
        evaluate([checkpoint], tmp_path / "none", "--suite=alignment", f"--human-data={single}")


def objects_with_cc(value):
    """Yield all objects with a key `cc` in a JSON document."""
    if isinstance(value, dict):
        if "cc" in value:
            yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from objects_with_cc(item)


def test_every_object_with_cc_has_its_controls_which_are_null_for_tables_of_earlier_versions(report):
    results = read_results(report)
    found = list(objects_with_cc(results))
    assert all(summary.keys() >= {"cc", "cc_permuted", "cc_center", "nss", "auc_shuffled"} for summary in found)
    for name in MODEL_NAMES:
        entry, other = (results[name]["alignment"][model] for model in (name, "other"))
        for summary in (entry, entry["refit"], entry["as_trained"], *entry["data"].values()):
            assert all(isinstance(summary[key], float) for key in ("cc_permuted", "cc_center", "auc_shuffled", "gain"))
        assert other["cc_permuted"] is other["cc_center"] is other["auc_shuffled"] is other["gain"] is None


def test_gain_is_the_mean_paired_difference_to_the_center_prior(report):
    for name in MODEL_NAMES:
        rows = [row for row in read_table(report / "alignment.csv") if row["model"] == name]
        differences = [float(row["cc"]) - float(row["cc_center"]) for row in rows]
        summary = read_results(report)[name]["alignment"][name]
        assert summary["gain"] == pytest.approx(np.mean(differences))
        assert summary["gain_ci95"][0] < summary["gain"] < summary["gain_ci95"][1]


def test_teacher_and_students_have_the_same_references(report, checkpoints, human, tmp_path):
    from labeler.teacher.evaluate import main

    teacher = ["--teacher=tests.support.teachers:gradient_teacher", f"--data={human}", "--device=cpu"]
    main([*teacher, f"--output={tmp_path / 'teacher'}"])
    compare = f"--compare=teacher={tmp_path / 'teacher/per_image.csv'}"
    evaluate(checkpoints, tmp_path / "out", "--suite=alignment", f"--human-data={human}", compare)
    table = read_table(tmp_path / "out/alignment.csv")
    center = [
        [float(row["cc_center"]) for row in table if row["model"] == name] for name in (MODEL_NAMES[0], "teacher")
    ]
    assert center[0] == pytest.approx(center[1], abs=1e-5)
    summary = read_results(tmp_path / "out")[MODEL_NAMES[0]]["alignment"]["teacher"]
    own = read_results(tmp_path / "teacher")["data"][human]["teacher"]
    for metric in (*METRICS, "gain"):
        assert summary[metric] == pytest.approx(own[metric]["mean"], abs=1e-4)
    tests = read_results(tmp_path / "out")[MODEL_NAMES[0]]["alignment_tests"]
    assert [MODEL_NAMES[0], "teacher"] in [test["models"] for test in tests]
    assert all(test["paired"]["n"] == 8 for test in tests)


def test_scores_do_not_depend_on_the_images_of_the_same_pass(report, checkpoints, human, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.evaluate.alignment.maps.IMAGES_PER_GROUP", 3)
    evaluate(checkpoints, tmp_path, "--suite=alignment", f"--human-data={human}")
    pairs = [
        [row for row in read_table(folder / "alignment.csv") if row["model"] in MODEL_NAMES]
        for folder in (report, tmp_path)
    ]
    for first, second in zip(*pairs, strict=True):
        assert first["image"] == second["image"]
        for metric in METRICS:
            assert float(first[metric]) == pytest.approx(float(second[metric]), abs=1e-4)


def test_page_explains_the_controls(report):
    text = (report / "index.html").read_text()
    assert "permuted targets is near its CC has learned the center" in text
    for heading in (
        "CC, permuted targets",
        "CC, center prior",
        "gain over the center prior",
        "shuffled AUC",
        "CC refit",
    ):
        assert heading in text


def test_human_data_without_fixations_is_refused(checkpoints, tmp_path):
    human = write_fixation_data(tmp_path / "human", random_fixations(images=2))
    (tmp_path / "human/fixations.csv").write_text("image,subject,x,y\n")
    with pytest.raises(UserError, match="expected images with fixations; found 2 images without a fixation"):
        evaluate(checkpoints[:1], tmp_path / "out", "--suite=alignment", f"--human-data={human}")


def test_model_without_attention_is_excluded_and_named(checkpoints, human, tmp_path, monkeypatch):
    original = AttentionObjective.attention

    def attention_of_guided_models(objective, *arguments):
        return original(objective, *arguments) if objective.guides_backbone else None

    monkeypatch.setattr(AttentionObjective, "attention", attention_of_guided_models)
    evaluate(checkpoints, tmp_path / "out", f"--human-data={human}")
    results = read_results(tmp_path / "out")
    assert "alignment" not in results[MODEL_NAMES[0]]
    assert list(results[MODEL_NAMES[1]]["alignment"]) == [MODEL_NAMES[1]]
    assert results[MODEL_NAMES[0]]["notes"]["alignment"] == [f"{MODEL_NAMES[0]} predicts no attention."]
    with pytest.raises(UserError, match="expected a model that predicts attention, found none among"):
        evaluate(checkpoints[:1], tmp_path / "out", f"--human-data={human}")


def test_model_with_nan_in_its_maps_is_named(human, tmp_path):
    weights = {name: w * float("nan") for name, w in torchvision.models.resnet18().state_dict().items()}
    torch.save(weights, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"nan\.pth: expected finite numbers as attention, found NaN or infinity"):
        evaluate([str(tmp_path / "nan.pth")], tmp_path / "out", "--backbone=resnet18", f"--human-data={human}")


def test_excluded_human_data_is_named_in_results_and_page(checkpoints, tmp_path):
    human = write_fixation_data(tmp_path / "human", random_fixations(images=4))
    (tmp_path / "human/images/photo00.jpg").unlink()
    (tmp_path / "human/images/photo01.jpg").write_bytes(b"")
    evaluate(checkpoints[:1], tmp_path / "out", f"--human-data={human}")
    result = read_results(tmp_path / "out")[MODEL_NAMES[0]]
    reasons = ("images that have fixations but no file", "images whose file cannot be read")
    assert result["alignment"][MODEL_NAMES[0]]["n"] == 2
    assert result["left_out"] == {human: dict.fromkeys(reasons, 1)}
    notes = [
        f"Excluded from {human}: 1 image with fixations but without a file (first: photo00.jpg)",
        f"Excluded from {human}: 1 image whose file cannot be read (first: photo01.jpg)",
    ]
    assert result["notes"]["alignment"] == notes
    assert all(note in (tmp_path / "out/index.html").read_text() for note in notes)
