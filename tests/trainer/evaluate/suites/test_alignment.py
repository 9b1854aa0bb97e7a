import numpy as np
import pytest
import torch
import torchvision
from scipy import stats

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


def test_cc_is_that_of_the_models_map_of_the_whole_frame(report, checkpoints, human):
    model = load_trained(checkpoints[0]).model
    image = open_fixations(human).images[3]
    with torch.no_grad():
        attention = model.attention(resize_frame(image.pixels(), 32)[None].float() / 255)
    resized = torch.nn.functional.interpolate(
        attention[None], (image.height, image.width), mode="bilinear", antialias=True
    )
    human_map = image.attention_map(image.height, image.width)
    table = read_table(report / "alignment.csv")
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
