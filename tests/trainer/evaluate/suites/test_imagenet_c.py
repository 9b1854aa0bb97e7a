import hashlib

import numpy as np
import pytest
import torch

from tests.support.data.pictures import write
from tests.support.evaluation import MODEL_NAMES, evaluate, read_class_folders, read_results, read_table
from trainer.checkpoint import load_trained
from trainer.data.crops import resize_frame
from trainer.evaluate.images.corruptions import ALEXNET_ERRORS, EXTRA_CORRUPTIONS
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.suites import imagenet_c
from trainer.evaluate.suites.imagenet_c import are_imagenet_classes, mean_accuracy, mean_corruption_error

# AlexNet's top-1 errors, averaged over the severities, from the spreadsheet of Hendrycks and Dietterich 2019 that shows
# how mCE is computed (github.com/hendrycks/robustness)
PUBLISHED_ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}


def test_published_images_are_classified_whole_by_the_clean_classifier(checkpoints, val, tmp_path):
    write(tmp_path / "imagenet-c/fog/3", read_class_folders(val))
    flags = ["--corruptions=fog", "--severities=3", "--queries=4", f"--imagenet-c={tmp_path / 'imagenet-c'}"]
    evaluate(checkpoints[:1], tmp_path / "out", *flags)
    trained, images = load_trained(checkpoints[0]), FolderImages("", str(val), "val")
    pixels = torch.stack([resize_frame(images.read(index), 32) for index in range(24)]).float() / 255
    with torch.no_grad():
        predicted = trained.model.logits(pixels).argmax(1).tolist()
    correct = [
        trained.classes[index] == file.split("/")[0] for index, file in zip(predicted, images.names, strict=True)
    ]
    result = read_results(tmp_path / "out")[MODEL_NAMES[0]]
    assert result["imagenet-c"]["fog"] == {"3": pytest.approx(np.mean(correct))}
    assert set(result["retrieval"]["imagenet"]) == {"3", "corruptions"}


def test_errors_of_alexnet_are_those_published():
    errors = dict(ALEXNET_ERRORS)
    assert errors == pytest.approx(PUBLISHED_ALEXNET_ERRORS, abs=0.000501)  # rounded to three digits


def test_mce_is_the_mean_error_relative_to_alexnets():
    """Half of all images are classified wrongly, at each severity, except those with fog and frost.

    With the fifteen errors e of AlexNet, the sum of 0.5 / e over the thirteen other corruptions is 8.4857. Fog, with
    the errors 0.1, 0.2, 0.3, 0.4 and 0.5, and frost, with 0.8 at the first severity and 0.05 at the others, add
    0.3 / 0.8193 = 0.3662 and 0.2 / 0.8266 = 0.2420. A fifteenth of the sum is 0.6063.
    """
    top1 = {name: dict.fromkeys(range(1, 6), 0.5) for name in PUBLISHED_ALEXNET_ERRORS}
    top1["fog"] = {1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6, 5: 0.5}
    top1["frost"] = {1: 0.2, 2: 0.95, 3: 0.95, 4: 0.95, 5: 0.95}
    assert mean_corruption_error(top1) == pytest.approx(0.6063, abs=0.0002)


def test_mce_of_resnet50_is_that_published():
    """Table 1 of Hendrycks and Dietterich 2019 has ResNet-50's errors relative to AlexNet's, in percent, and mCE."""
    relative = [80, 82, 83, 75, 89, 78, 80, 78, 75, 66, 57, 71, 85, 77, 77]
    top1 = {
        name: dict.fromkeys(range(1, 6), 1 - error * percent / 100)
        for (name, error), percent in zip(PUBLISHED_ALEXNET_ERRORS.items(), relative, strict=True)
    }
    assert mean_corruption_error(top1) == pytest.approx(0.767, abs=0.003)


def test_mean_accuracy_is_over_the_15_corruptions_and_needs_all_of_them():
    top1 = {name: {1: 0.2, 2: 0.4} for name in ALEXNET_ERRORS}
    assert mean_accuracy(top1 | {EXTRA_CORRUPTIONS[0]: {1: 1.0, 2: 1.0}}) == pytest.approx(0.3)
    assert mean_corruption_error(top1) is None
    del top1["fog"]
    assert mean_accuracy(top1) is None


def test_both_probes_are_measured_and_the_concurrent_one_is_the_primary(report):
    for name in MODEL_NAMES:
        result = read_results(report)[name]["imagenet-c"]
        assert result["probe"] == "concurrent"
        assert result["fog"] == result["concurrent"]["fog"]
        assert result["offline"]["fog"].keys() == {"2", "5"}
        assert result["offline"]["weight_decay"] in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
        rows = [row for row in read_table(report / "imagenet-c.csv") if row["model"] == name]
        found = {(row["probe"], row["severity"]): float(row["top1"]) for row in rows}
        expected = {
            (kind, severity): result[kind]["fog"][severity]
            for kind in ("concurrent", "offline")
            for severity in ("2", "5")
        }
        assert found == expected
        assert f"{name}, offline probe" in (report / "index.html").read_text()


def test_offline_probe_alone_is_the_primary_one(checkpoints, training_data, val, tmp_path):
    write(tmp_path / "imagenet-c/fog/3", read_class_folders(val))
    flags = ["--suite=imagenet-c", "--corruptions=fog", "--severities=3", f"--imagenet-c={tmp_path / 'imagenet-c'}"]
    flags += [f"--train={training_data}", "--probe-epochs=3"]
    evaluate(checkpoints[:1], tmp_path / "offline", *flags, "--probe-kind=offline")
    result = read_results(tmp_path / "offline")[MODEL_NAMES[0]]["imagenet-c"]
    assert result["probe"] == "offline"
    assert "concurrent" not in result
    assert result["fog"] == result["offline"]["fog"]
    evaluate(checkpoints[:1], tmp_path / "concurrent", *flags, "--probe-kind=concurrent")
    assert not list((tmp_path / "concurrent/features").glob("*train*")), "concurrent probes need no training images"
    result = read_results(tmp_path / "concurrent")[MODEL_NAMES[0]]["imagenet-c"]
    assert result.keys() & {"concurrent", "offline"} == {"concurrent"}


def test_mce_needs_the_classes_of_imagenet(checkpoints, val, tmp_path, monkeypatch):
    """All corruptions are the same clean images, so that their errors differ in AlexNet's only."""
    for corruption in ALEXNET_ERRORS:
        for severity in range(1, 6):
            write(tmp_path / f"imagenet-c/{corruption}/{severity}", read_class_folders(val))
    flags = ["--suite=imagenet-c", f"--imagenet-c={tmp_path / 'imagenet-c'}", f"--features={tmp_path / 'features'}"]
    evaluate(checkpoints[:1], tmp_path / "out", *flags)
    result = read_results(tmp_path / "out")[MODEL_NAMES[0]]
    assert (result["imagenet-c"]["mce"], result["imagenet-c"]["concurrent"]["mce"]) == (None, None)
    mean = result["imagenet-c"]["mean"]
    assert mean == pytest.approx(result["imagenet-c"]["fog"]["1"])
    note = "expected by their WordNet IDs; found 4 other classes, such as blue."
    assert note in result["notes"]["imagenet-c"][0]
    assert "mCE (lower" not in (tmp_path / "out/index.html").read_text()

    names = "blue\nlime\nred\nyellow\n"
    monkeypatch.setattr(imagenet_c, "IMAGENET_CLASSES", hashlib.sha256(names.encode()).hexdigest())
    evaluate(checkpoints[:1], tmp_path / "again", *flags)
    result = read_results(tmp_path / "again")[MODEL_NAMES[0]]
    assert result["imagenet-c"]["mce"] == pytest.approx(np.mean([(1 - mean) / e for e in ALEXNET_ERRORS.values()]))
    assert result["notes"]["imagenet-c"] == []
    assert "mCE (lower" in (tmp_path / "again/index.html").read_text()


def test_a_thousand_other_classes_are_not_those_of_imagenet():
    assert not are_imagenet_classes([f"n{number:08}" for number in range(1000)])
    assert not are_imagenet_classes([str(number) for number in range(1000)])
    assert not are_imagenet_classes([])
