from pathlib import Path

import numpy as np
import pytest
import torch

from common.alignment import METRICS
from common.fixations import FixatedImage, open_fixations
from common.manifest import Teacher
from labeler.teacher.evaluation.page import make_evaluation_page, select_extremes
from labeler.teacher.evaluation.scoring import ImageScores, score_images
from labeler.teacher.evaluation.summary import Evaluation, summarize
from labeler.teacher.weights import CustomTeacher
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.simple_teachers import Flat
from tests.support.teachers import GradientTeacher

CPU = torch.device("cpu")
IDENTITY = Teacher(name="<b>mine</b>", sha256="0" * 64)


def make_page(location: str, module: torch.nn.Module, excluded: dict[str, int] | None = None) -> str:
    images = open_fixations(location).images
    teacher = CustomTeacher(module)
    scores = list(score_images(teacher, images, images, CPU, 0))
    evaluation = Evaluation(location, images, scores, excluded or {})
    return make_evaluation_page(IDENTITY, teacher, CPU, [evaluation], {location: summarize(evaluation, 0)})


@pytest.mark.parametrize("images", [1, 2, 7, 8, 9, 13, 40])
def test_extremes_are_ordered_by_cc_and_show_no_image_twice(images: int) -> None:
    values = torch.rand(images, generator=torch.Generator().manual_seed(images)).tolist()
    scores = [ImageScores(str(value), dict.fromkeys(METRICS, value), {}, None, False) for value in values]
    image = FixatedImage("a.jpg", Path("a.jpg"), 64, 48, np.full((1, 2), 0.5, np.float32), np.zeros(1, np.int32))
    groups = select_extremes(Evaluation("data", [image] * images, scores, {}))
    best, middle, worst = ([image_scores.teacher["cc"] for _, image_scores in group] for group in groups.values())
    ordered = sorted(values, reverse=True)
    assert best == ordered[:4]
    assert worst == ordered[4:][-4:]
    assert best + middle + worst == sorted({*best, *middle, *worst}, reverse=True)
    assert len(best + middle + worst) == min(images, 12)
    if images == 40:
        assert middle == ordered[18:22]


def test_page_shows_scores_and_each_image_under_both_maps(tmp_path: Path) -> None:
    location = write_fixation_data(tmp_path, random_fixations(images=5))
    page = make_page(location, GradientTeacher(), {"images without a fixation": 3})
    assert page.count('class="pair"') == 5
    assert page.count('class="heat"') == page.count('class="photograph"') == 10
    assert all(f"photo{index:02}.jpg" in page for index in range(5))
    assert "human split-half" in page
    assert "Excluded from the data set: 3 images without a fixation" in page
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "gaze points</label>" not in page


def test_page_names_images_with_constant_maps_or_a_single_subject(tmp_path: Path) -> None:
    page = make_page(write_fixation_data(tmp_path, random_fixations(images=12, subjects=1)), Flat())
    names = ", ".join(f"photo{index:02}.jpg" for index in range(10))
    assert f"The teacher&#x27;s map is constant, which scores at chance level: 12 images ({names} and 2 more)" in page
    assert f"No human split-half score for lack of a second subject: 12 images ({names} and 2 more)" in page
