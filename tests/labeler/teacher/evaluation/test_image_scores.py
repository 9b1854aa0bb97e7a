from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from common.fixations import FixatedImage, open_fixations
from common.saliency import score_map
from labeler.teacher.evaluation.image_scores import OTHER_IMAGES, score_image, split_subjects
from labeler.teacher.evaluation.predict import score_images
from labeler.teacher.model import resize_to_input
from labeler.teacher.weights import ForeignTeacher
from tests.support.seeing_teachers import HEIGHT, WIDTH, Brightness, Flat, LogDensity, data_set, looks, paint_human_maps
from tests.support.teachers import GradientTeacher

CPU = torch.device("cpu")


# The benchmark's definitions in numpy and scipy, on one map of an image whose fixations are rows of subject, x, y.
def human_map(rows: np.ndarray) -> np.ndarray:
    impulses = np.zeros((HEIGHT, WIDTH))
    impulses[rows[:, 2].astype(int), rows[:, 1].astype(int)] = 1
    blurred = gaussian_filter(impulses, 19 / 640 * WIDTH, mode="constant", truncate=4)
    return blurred.astype(np.float32).astype(np.float64)  # what is tied but for float64's rounding is tied


def centre_gaussian() -> np.ndarray:
    y, x = (np.arange(1 - size, size, 2) / (2 * size) for size in (HEIGHT, WIDTH))
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.25**2))


def expected(prediction: np.ndarray, rows: np.ndarray, elsewhere: np.ndarray) -> dict[str, float]:
    truth = human_map(rows)
    p, q = prediction / prediction.sum(), truth / truth.sum()
    at = prediction[rows[:, 2].astype(int), rows[:, 1].astype(int)]
    other_values = np.delete(prediction.ravel(), rows[:, 2].astype(int) * WIDTH + rows[:, 1].astype(int))
    at_others = prediction[elsewhere[:, 2].astype(int), elsewhere[:, 1].astype(int)]
    thresholds = np.sort(at)[::-1]
    hits = [0, *((at >= t).mean() for t in thresholds), 1]
    false_alarms = [0, *((other_values >= t).mean() for t in thresholds), 1]
    return {
        "cc": np.corrcoef(prediction.ravel(), truth.ravel())[0, 1],
        "kld": np.sum(q * np.log(2.2204e-16 + q / (p + 2.2204e-16))),
        "nss": ((at - prediction.mean()) / prediction.std()).mean(),
        "sim": np.minimum(p, q).sum(),
        "auc_judd": np.trapezoid(hits, false_alarms),
        "shuffled_auc": mannwhitneyu(at, at_others).statistic / (len(at) * len(at_others)),
    }


def close(found: dict[str, float] | None, oracle: dict[str, float], tolerance: float = 1e-4) -> bool:
    return found == pytest.approx(oracle, abs=tolerance, rel=tolerance)


@pytest.fixture(scope="module")
def seen() -> dict[str, np.ndarray]:
    return looks()


@pytest.fixture(scope="module")
def images(seen: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[FixatedImage]:
    return open_fixations(data_set(tmp_path_factory.mktemp("data"), seen)).images


def test_every_metric_of_every_prediction_is_the_benchmarks(images, seen) -> None:
    teacher = GradientTeacher()
    for scored, image in zip(score_images(ForeignTeacher(teacher), images, images, CPU, 0), images, strict=True):
        rows = seen[image.name]
        elsewhere = np.concatenate([other for name, other in seen.items() if name != image.name])
        raw = teacher(resize_to_input(image.pixels())[None].float() / 255)[0]
        resized = np.asarray(Image.fromarray(raw.numpy()).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
        assert scored.image == image.name
        assert not scored.constant
        assert close(scored.teacher, expected(resized.astype(np.float64), rows, elsewhere), 1e-3)
        assert close(scored.centre_prior, expected(centre_gaussian(), rows, elsewhere))
        one, other = (rows[rows[:, 0] == subject] for subject in (0, 1))  # two subjects can be halved in one way only
        there, back = expected(human_map(one), other, elsewhere), expected(human_map(other), one, elsewhere)
        assert close(scored.human_split_half, {metric: (there[metric] + back[metric]) / 2 for metric in there})


def test_the_human_map_itself_scores_1(images) -> None:
    for image in images:
        attention = image.attention_map(HEIGHT, WIDTH)
        found = score_map(attention, attention, image.fixations, images[0].fixations)
        assert (found["cc"], found["kld"], found["sim"]) == pytest.approx((1, 0, 1), abs=1e-5)


def test_a_teacher_that_sees_what_people_did_scores_1(tmp_path: Path) -> None:
    data_set(tmp_path, looks(images=3))
    images = paint_human_maps(tmp_path)
    for scored in score_images(ForeignTeacher(Brightness()), images, images, CPU, 0):
        assert scored.teacher["cc"] > 0.99
        assert scored.teacher["nss"] > scored.centre_prior["nss"] + 0.3


def test_a_map_that_is_the_same_everywhere_scores_like_chance(images) -> None:
    for teacher in (Flat(), LogDensity()):
        [scored] = score_images(ForeignTeacher(teacher), images[:1], images, CPU, 0)
        assert scored.constant
        assert scored.teacher["cc"] == scored.teacher["nss"] == 0
        assert scored.teacher["auc_judd"] == scored.teacher["shuffled_auc"] == 0.5
        assert np.isfinite(list(scored.teacher.values())).all()


def test_an_image_scores_the_same_whatever_others_are_scored_and_another_seed_draws_anew(tmp_path: Path) -> None:
    images = open_fixations(data_set(tmp_path, looks(images=15, subjects=6, fixations=4))).images
    teacher = ForeignTeacher(GradientTeacher())
    every = list(score_images(teacher, images, images, CPU, seed=3))
    assert list(score_images(teacher, images[7:9], images, CPU, seed=3)) == every[7:9]
    [other] = score_images(teacher, images[7:8], images, CPU, seed=4)
    assert other.human_split_half != every[7].human_split_half
    assert other.teacher["shuffled_auc"] != every[7].teacher["shuffled_auc"]
    assert other.teacher["cc"] == every[7].teacher["cc"]


def test_shuffled_auc_takes_ten_other_images_and_never_the_image_itself(tmp_path: Path, monkeypatch) -> None:
    images = open_fixations(data_set(tmp_path, looks(images=14, fixations=3))).images
    given: list[np.ndarray] = []

    def recorded(maps, points, other_points):
        given.extend(other_points)
        return torch.zeros(1)

    monkeypatch.setattr("common.saliency.shuffled_auc", recorded)
    own = {tuple(point) for point in images[5].fixations.tolist()}
    for seed in range(20):
        score_image(images[5], torch.rand(HEIGHT, WIDTH), images, seed)
    assert {len(points) for points in given} == {OTHER_IMAGES * 6}
    shared = {tuple(point) for image in images if image is not images[5] for point in image.fixations.tolist()}
    assert not {tuple(point) for points in given for point in points.tolist()} & (own - shared)


@pytest.mark.parametrize("subjects", [2, 3, 8])
def test_halves_divide_the_subjects_evenly_and_lose_nobody(subjects: int, tmp_path: Path) -> None:
    [image] = open_fixations(data_set(tmp_path, looks(images=1, subjects=subjects))).images
    divided = [split_subjects(image, np.random.default_rng(seed)) for seed in range(20)]
    for pair in divided:
        assert pair is not None
        one, other = (set(half.subjects.tolist()) for half in pair)
        assert (len(one), len(other)) == (subjects // 2, subjects - subjects // 2)
        assert one | other == set(range(subjects))
        for half in pair:
            assert half.fixations.tolist() == image.fixations[np.isin(image.subjects, half.subjects)].tolist()
    assert len({tuple(np.unique(pair[0].subjects)) for pair in divided if pair}) > 1


def test_one_subject_has_no_halves_and_one_image_no_others(tmp_path: Path) -> None:
    [image] = open_fixations(data_set(tmp_path, looks(images=1, subjects=1))).images
    assert split_subjects(image, np.random.default_rng(0)) is None
    [scored] = score_images(ForeignTeacher(GradientTeacher()), [image], [image], CPU, 0)
    assert scored.human_split_half is None
    assert np.isnan(scored.teacher["shuffled_auc"])
    assert np.isfinite(scored.teacher["auc_judd"])
