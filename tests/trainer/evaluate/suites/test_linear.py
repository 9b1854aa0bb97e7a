import numpy as np
import pytest
import torch
import torchvision

from common.errors import UserError
from tests.support.evaluation import MODEL_NAMES, evaluate, read_results, read_table
from trainer.checkpoint import load_trained
from trainer.data.crops import center_crop
from trainer.evaluate.images.image_sets import FolderImages, open_training
from trainer.evaluate.neighbors import count_correct
from trainer.evaluate.offline_probe import choose_weight_decay, fit_linear_probe


def test_top1_is_the_accuracy_of_the_models_own_logits(report, checkpoints, val):
    images = FolderImages("", str(val), "val")
    pixels = torch.stack([center_crop(images.read(index), 32) for index in range(24)]).float() / 255
    for name, location in zip(MODEL_NAMES, checkpoints, strict=True):
        trained = load_trained(location)
        with torch.no_grad():
            predicted = trained.model.logits(pixels).argmax(1).tolist()
        correct = [
            trained.classes[index] == file.split("/")[0] for index, file in zip(predicted, images.names, strict=True)
        ]
        linear = read_results(report)[name]["linear"]
        assert linear["top1"] == linear["concurrent"]["top1"] == pytest.approx(np.mean(correct))
        assert linear["top5"] == 1  # of four classes


def test_offline_probe_and_neighbors_use_center_crops_of_the_training_images(report, checkpoints, training_data, val):
    train, images = open_training(str(training_data)), FolderImages("", str(val), "val")
    assert train.classes != images.classes, "class indices must differ for labels to be confused"
    for name, location in zip(MODEL_NAMES, checkpoints, strict=True):
        model = load_trained(location).model
        with torch.no_grad():
            features, val_features = (
                model.features(
                    torch.stack([center_crop(part.read(index), 32) for index in range(len(part.names))]).float() / 255
                )
                for part in (train, images)
            )
        arguments = (features, torch.from_numpy(train.labels), 4, 3, 0, torch.device("cpu"))
        choice = choose_weight_decay(*arguments)
        probe = fit_linear_probe(*arguments, weight_decay=choice.weight_decay)
        predicted = [train.classes[index] for index in probe(val_features).argmax(1).tolist()]
        correct = [guess == file.split("/")[0] for guess, file in zip(predicted, images.names, strict=True)]
        linear = read_results(report)[name]["linear"]
        assert linear["offline"]["top1"] == pytest.approx(np.mean(correct))
        assert linear["offline"]["weight_decay"] == choice.weight_decay
        assert linear["offline"]["held_out"].keys() == {"1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1"}
        for key, score in choice.held_out.items():
            assert linear["offline"]["held_out"][f"{key:g}"] == pytest.approx(score._asdict(), rel=1e-3)
        labels = torch.tensor([train.classes.index(file.split("/")[0]) for file in images.names])
        hits = count_correct(val_features, labels, features, torch.from_numpy(train.labels), 4, (20, 200))
        assert [linear[f"knn_{k}"]["top1"] for k in (20, 200)] == pytest.approx([hits[20] / 24, hits[200] / 24])


def test_table_and_page_show_probes_and_neighbors(report):
    rows = [row for row in read_table(report / "linear.csv") if row["model"] == MODEL_NAMES[0]]
    result = read_results(report)[MODEL_NAMES[0]]["linear"]
    assert [row["probe"] for row in rows] == ["concurrent", "offline", "knn_20", "knn_200"]
    assert [float(row["top1"]) for row in rows] == [result[row["probe"]]["top1"] for row in rows]
    assert [row["weight_decay"] for row in rows] == ["", str(result["offline"]["weight_decay"]), "", ""]
    page = (report / "index.html").read_text()
    assert "200 nearest neighbors" in page
    assert "standardizes the features" in page


def test_only_the_probe_of_the_requested_kind_is_measured(report, checkpoints, training_data, val, tmp_path):
    shared = ["--suite=linear", f"--val={val}", f"--train={training_data}", f"--features={report / 'features'}"]
    for kind, other in (("concurrent", "offline"), ("offline", "concurrent")):
        evaluate(checkpoints[:1], tmp_path / kind, *shared, f"--probe-kind={kind}", "--probe-epochs=3")
        result = read_results(tmp_path / kind)[MODEL_NAMES[0]]["linear"]
        expected = read_results(report)[MODEL_NAMES[0]]["linear"]
        assert result["probe"] == kind
        assert other not in result
        assert result["top1"] == result[kind]["top1"] == expected[kind]["top1"]
        assert result["knn_20"] == expected["knn_20"]


def test_model_without_the_requested_probe_is_omitted_with_a_note(report, checkpoints, val, tmp_path):
    weights = {key: value for key, value in torchvision.models.resnet18().state_dict().items() if key[:3] != "fc."}
    torch.save(weights, tmp_path / "features.pth")
    models = [str(tmp_path / "features.pth"), checkpoints[0]]
    flags = ["--suite=linear", "--backbone=resnet18", "--image-size=32", f"--val={val}", "--probe-kind=concurrent"]
    evaluate(models, tmp_path / "out", *flags)
    results = read_results(tmp_path / "out")
    assert "linear" not in results["features"]
    assert results["features"]["notes"]["linear"] == ["features has no concurrent probe: it is not measured."]
    assert results[MODEL_NAMES[0]]["linear"]["probe"] == "concurrent"
    assert "features has no concurrent probe: it is not measured." in (tmp_path / "out/index.html").read_text()


def test_classifier_of_other_unnamed_classes_is_replaced_by_an_offline_probe(val, training_data, tmp_path):
    weights = str(tmp_path / "thousand.pth")
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    flags = ["--suite=linear", "--backbone=resnet18", "--image-size=32", "--probe-epochs=2", f"--val={val}"]
    evaluate([weights], tmp_path / "out", *flags, f"--train={training_data}")
    result = read_results(tmp_path / "out")["thousand"]
    assert result["linear"].keys() & {"concurrent", "offline"} == {"offline"}
    reason = "knows 1,000 classes without their names, found 4 class folders"
    assert result["notes"]["linear"] == [f"thousand {reason}: only an offline probe is measured."]
    with pytest.raises(UserError, match=f"{reason}; expected as many, .* with --train"):
        evaluate([weights], tmp_path / "none", *flags)
