import numpy as np
import pytest
import torch
import torchvision

from common.errors import UserError
from tests.support.evaluation import MODEL_NAMES, evaluate, read_results
from trainer.checkpoint import load_trained
from trainer.data.crops import center_crop
from trainer.evaluate.images.image_sets import FolderImages, open_training
from trainer.evaluate.probes import fit_linear_probe


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


def test_offline_probe_is_trained_on_center_crops_of_the_training_images(report, checkpoints, training_data, val):
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
        probe = fit_linear_probe(features, torch.from_numpy(train.labels), 4, 3, 0, torch.device("cpu"))
        predicted = [train.classes[index] for index in probe(val_features).argmax(1).tolist()]
        correct = [guess == file.split("/")[0] for guess, file in zip(predicted, images.names, strict=True)]
        assert read_results(report)[name]["linear"]["offline"]["top1"] == pytest.approx(np.mean(correct))


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
