from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from common.fixations import FixatedImage, open_fixations
from common.saliency import score_map
from labeler.teacher.evaluation.scoring import score_images, split_subjects
from labeler.teacher.model import resize_to_input
from labeler.teacher.weights import CustomTeacher
from tests.support.data.fixation_data import HEIGHT, WIDTH, paint_human_maps, random_fixations, write_fixation_data
from tests.support.simple_teachers import Brightness, Flat, LogDensity
from tests.support.teachers import GradientTeacher

CPU = torch.device("cpu")
CONTROLS = ("cc_permuted", "cc_center")  # tested in tests/common/alignment


# Independent implementation of the MIT saliency benchmark in numpy and scipy. Fixations are rows of subject, x, y.
def human_map(rows: np.ndarray) -> np.ndarray:
    impulses = np.zeros((HEIGHT, WIDTH))
    impulses[rows[:, 2].astype(int), rows[:, 1].astype(int)] = 1
    blurred = gaussian_filter(impulses, 19 / 640 * WIDTH, mode="constant", truncate=4)
    return blurred.astype(np.float32).astype(np.float64)  # ties must stay ties in spite of rounding


def center_gaussian() -> np.ndarray:
    y, x = (np.arange(1 - size, size, 2) / (2 * size) for size in (HEIGHT, WIDTH))
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.25**2))


def expected_scores(prediction: np.ndarray, rows: np.ndarray, negatives: np.ndarray) -> dict[str, float]:
    reference = human_map(rows)
    p, q = prediction / prediction.sum(), reference / reference.sum()
    fixated = prediction[rows[:, 2].astype(int), rows[:, 1].astype(int)]
    not_fixated = np.delete(prediction.ravel(), rows[:, 2].astype(int) * WIDTH + rows[:, 1].astype(int))
    at_negatives = prediction[negatives[:, 2].astype(int), negatives[:, 1].astype(int)]
    thresholds = np.sort(fixated)[::-1]
    hits = [0, *((fixated >= t).mean() for t in thresholds), 1]
    false_alarms = [0, *((not_fixated >= t).mean() for t in thresholds), 1]
    return {
        "cc": np.corrcoef(prediction.ravel(), reference.ravel())[0, 1],
        "kld": np.sum(q * np.log(2.2204e-16 + q / (p + 2.2204e-16))),
        "nss": ((fixated - prediction.mean()) / prediction.std()).mean(),
        "sim": np.minimum(p, q).sum(),
        "auc_judd": np.trapezoid(hits, false_alarms),
        "auc_shuffled": mannwhitneyu(fixated, at_negatives).statistic / (len(fixated) * len(at_negatives)),
    }


def are_close(scores: dict[str, float] | None, oracle: dict[str, float], tolerance: float = 1e-4) -> bool:
    assert scores is not None
    common = {metric: value for metric, value in scores.items() if metric not in CONTROLS}
    return scores.keys() >= set(CONTROLS) and common == pytest.approx(oracle, abs=tolerance, rel=tolerance)


@pytest.fixture(scope="module")
def fixations() -> dict[str, np.ndarray]:
    return random_fixations()


@pytest.fixture(scope="module")
def images(fixations: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[FixatedImage]:
    return open_fixations(write_fixation_data(tmp_path_factory.mktemp("data"), fixations)).images


def test_all_scores_equal_those_of_an_independent_implementation(images, fixations) -> None:
    teacher = GradientTeacher()
    for scores, image in zip(score_images(CustomTeacher(teacher), images, images, CPU, 0), images, strict=True):
        rows = fixations[image.name]
        negatives = np.concatenate([other for name, other in fixations.items() if name != image.name])
        raw = teacher(resize_to_input(image.pixels())[None].float() / 255)[0]
        resized = np.asarray(Image.fromarray(raw.numpy()).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        assert scores.image == image.name
        assert not scores.constant
        assert are_close(scores.teacher, expected_scores(resized.astype(np.float64), rows, negatives), 1e-3)
        assert are_close(scores.centre_prior, expected_scores(center_gaussian(), rows, negatives))
        first, second = (rows[rows[:, 0] == subject] for subject in (0, 1))  # the only way to divide two subjects
        forward = expected_scores(human_map(first), second, negatives)
        backward = expected_scores(human_map(second), first, negatives)
        means = {metric: (forward[metric] + backward[metric]) / 2 for metric in forward}
        assert are_close(scores.human_split_half, means)


def test_human_map_itself_has_the_best_scores(images) -> None:
    for image in images:
        attention = image.attention_map(HEIGHT, WIDTH)
        scores = score_map(attention, attention, image.fixations, images[0].fixations)
        assert (scores["cc"], scores["kld"], scores["sim"]) == pytest.approx((1, 0, 1), abs=1e-5)


def test_perfect_teacher_scores_1(tmp_path: Path) -> None:
    write_fixation_data(tmp_path, random_fixations(images=3))
    images = paint_human_maps(tmp_path)
    for scores in score_images(CustomTeacher(Brightness()), images, images, CPU, 0):
        assert scores.teacher["cc"] > 0.99
        assert scores.teacher["nss"] > scores.centre_prior["nss"] + 0.3


def test_constant_map_scores_at_chance_level(images) -> None:
    for teacher in (Flat(), LogDensity()):
        [scores] = score_images(CustomTeacher(teacher), images[:1], images, CPU, 0)
        assert scores.constant
        assert scores.teacher["cc"] == scores.teacher["nss"] == 0
        assert scores.teacher["auc_judd"] == scores.teacher["auc_shuffled"] == 0.5
        assert np.isfinite(list(scores.teacher.values())).all()


def test_scores_of_an_image_depend_on_the_seed_and_not_on_the_other_images(tmp_path: Path) -> None:
    images = open_fixations(write_fixation_data(tmp_path, random_fixations(images=15, subjects=6, fixations=4))).images
    teacher = CustomTeacher(GradientTeacher())
    scores = list(score_images(teacher, images, images, CPU, seed=3))
    assert list(score_images(teacher, images[7:9], images, CPU, seed=3)) == scores[7:9]
    [other] = score_images(teacher, images[7:8], images, CPU, seed=4)
    assert other.human_split_half != scores[7].human_split_half
    assert other.teacher["auc_shuffled"] != scores[7].teacher["auc_shuffled"]
    assert other.teacher["cc"] == scores[7].teacher["cc"]


@pytest.mark.parametrize("subjects", [2, 3, 8])
def test_halves_divide_the_subjects_evenly_and_completely(subjects: int, tmp_path: Path) -> None:
    [image] = open_fixations(write_fixation_data(tmp_path, random_fixations(images=1, subjects=subjects))).images
    pairs = [split_subjects(image, np.random.default_rng(seed)) for seed in range(20)]
    for pair in pairs:
        assert pair is not None
        first, second = (set(half.subjects.tolist()) for half in pair)
        assert (len(first), len(second)) == (subjects // 2, subjects - subjects // 2)
        assert first | second == set(range(subjects))
        for half in pair:
            assert half.fixations.tolist() == image.fixations[np.isin(image.subjects, half.subjects)].tolist()
    assert len({tuple(np.unique(pair[0].subjects)) for pair in pairs if pair}) > 1


def test_single_subject_has_no_halves_and_single_image_no_negatives(tmp_path: Path) -> None:
    [image] = open_fixations(write_fixation_data(tmp_path, random_fixations(images=1, subjects=1))).images
    assert split_subjects(image, np.random.default_rng(0)) is None
    [scores] = score_images(CustomTeacher(GradientTeacher()), [image], [image], CPU, 0)
    assert scores.human_split_half is None
    assert np.isnan(scores.teacher["auc_shuffled"])
    assert np.isfinite(scores.teacher["auc_judd"])
