import numpy as np
import pytest
import torch

from tests.support.data.pictures import write
from tests.support.evaluation import MODEL_NAMES, evaluate, read_class_folders, read_results
from trainer.checkpoint import load_trained
from trainer.data.crops import resize_frame
from trainer.evaluate.images.corruptions import ALEXNET_ERRORS, EXTRA_CORRUPTIONS
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.suites.imagenet_c import mean_accuracy, mean_corruption_error

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
