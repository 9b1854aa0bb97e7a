import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common.alignment import METRICS, References, score_prediction, summarize_scores
from common.fixations import FixatedImage
from common.fixations.maps import center_prior
from tests.common.alignment.test_references import make_image, make_images


def scores_of(predict, images: list[FixatedImage], seed: int = 0) -> list[dict[str, float]]:
    references = References(images, seed)
    scores = []
    for image in images:
        reference = references.reference(image, references.generator(image))
        scores.append(score_prediction(predict(image, reference), reference))
    return scores


def test_controls_are_pearsons_correlations_with_the_reference_maps() -> None:
    images = make_images(6)
    references = References(images, 0)
    for number, image in enumerate(images):
        reference = references.reference(image, references.generator(image))
        predicted = torch.rand(image.height, image.width, generator=torch.Generator().manual_seed(number))
        scores = score_prediction(predicted, reference)
        assert list(scores) == list(METRICS)
        pairs = {
            "cc": (predicted, reference.attention),
            "cc_permuted": (predicted, reference.permuted),
            "cc_center": (reference.center_prior, reference.attention),
        }
        for metric, (first, second) in pairs.items():
            assert scores[metric] == pytest.approx(np.corrcoef(first.flatten(), second.flatten())[0, 1], abs=1e-5)


def test_prediction_of_the_human_map_gains_and_loses_with_permuted_targets() -> None:
    summary = summarize_scores(scores_of(lambda image, reference: reference.attention, make_images(12)), 0)
    assert summary["cc"]["mean"] == pytest.approx(1)
    assert summary["cc_permuted"]["mean"] < 0.5
    assert summary["gain"]["ci95"][0] > 0.3


def test_model_that_looks_at_the_center_has_the_same_cc_with_permuted_targets() -> None:
    points = np.random.default_rng(0).normal(0.5, 0.1, (20, 30, 2)).clip(0.01, 0.99).astype(np.float32)
    images = [
        FixatedImage(f"{number}.jpg", Path("x"), 64, 48, points[number], np.zeros(30, np.int32)) for number in range(20)
    ]
    summary = summarize_scores(
        scores_of(lambda image, reference: center_prior(image.height, image.width, 0.1), images), 0
    )
    assert summary["cc"]["mean"] == pytest.approx(summary["cc_permuted"]["mean"], abs=1e-6)  # the same 20 targets
    assert summary["cc"]["mean"] > 0.5
    assert abs(summary["gain"]["mean"]) < 0.05


def test_center_prior_as_prediction_has_no_gain() -> None:
    for scores in scores_of(lambda image, reference: reference.center_prior, make_images(6)):
        assert scores["cc"] == pytest.approx(scores["cc_center"], abs=1e-6)


def test_center_prior_does_not_depend_on_the_prediction() -> None:
    images = make_images(5)
    first = scores_of(lambda image, reference: reference.attention, images)
    second = scores_of(lambda image, reference: torch.rand(7, 7), images)
    assert [scores["cc_center"] for scores in first] == [scores["cc_center"] for scores in second]


def test_single_image_has_nan_for_everything_that_needs_other_images() -> None:
    [scores] = scores_of(lambda image, reference: torch.rand(7, 7), [make_image(0)])
    missing = {metric for metric, value in scores.items() if math.isnan(value)}
    assert missing == {"cc_permuted", "cc_center", "auc_shuffled"}


def test_gain_has_the_interval_of_paired_differences() -> None:
    generator = np.random.default_rng(0)
    center = generator.uniform(0, 0.8, 50)
    scores = [{"cc": value + 0.1, "cc_center": value} for value in center.tolist()]
    summary = summarize_scores(scores, 0)
    assert summary["gain"]["mean"] == pytest.approx(0.1)
    assert summary["gain"]["ci95"] == pytest.approx([0.1, 0.1])  # unpaired, it would be as wide as that of CC
    low, high = summary["cc"]["ci95"]
    assert high - low > 0.05


def test_gain_leaves_out_images_without_a_center_prior() -> None:
    scores = [{"cc": 0.5, "cc_center": 0.2}, {"cc": 0.9}, {"cc": 0.4, "cc_center": math.nan}]
    summary = summarize_scores(scores, 0)
    assert summary["gain"] == {"mean": pytest.approx(0.3), "ci95": pytest.approx([0.3, 0.3]), "images": 1}
    assert summary["nss"] == {"mean": None, "ci95": None, "images": 0}
