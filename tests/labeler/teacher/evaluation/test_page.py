from pathlib import Path

import numpy as np
import pytest
import torch

from common.fixations import FixatedImage, open_fixations
from common.manifest import Teacher
from labeler.teacher.evaluation.image_scores import ImageScores
from labeler.teacher.evaluation.page import evaluation_page, select_extremes
from labeler.teacher.evaluation.predict import score_images
from labeler.teacher.evaluation.summary import METRICS, Evaluation, summarize
from labeler.teacher.weights import ForeignTeacher
from tests.support.seeing_teachers import Flat, data_set, looks
from tests.support.teachers import GradientTeacher

CPU = torch.device("cpu")
IDENTITY = Teacher(name="<b>mine</b>", sha256="0" * 64)


def page_of(location: str, module: torch.nn.Module, left_out: dict[str, int] | None = None) -> str:
    images = open_fixations(location).images
    teacher = ForeignTeacher(module)
    scores = list(score_images(teacher, images, images, CPU, 0))
    evaluation = Evaluation(location, images, scores, left_out or {})
    return evaluation_page(IDENTITY, teacher, CPU, [evaluation], {location: summarize(evaluation, 0)})


@pytest.mark.parametrize("images", [1, 2, 7, 8, 9, 13, 40])
def test_the_extremes_are_ordered_and_show_no_image_twice(images: int) -> None:
    values = torch.rand(images, generator=torch.Generator().manual_seed(images)).tolist()
    scores = [ImageScores(str(value), dict.fromkeys(METRICS, value), {}, None, False) for value in values]
    image = FixatedImage("a.jpg", Path("a.jpg"), 64, 48, np.full((1, 2), 0.5, np.float32), np.zeros(1, np.int32))
    groups = select_extremes(Evaluation("data", [image] * images, scores, {}))
    best, middle, worst = ([scored.teacher["cc"] for _, scored in chosen] for chosen in groups.values())
    ordered = sorted(values, reverse=True)
    assert best == ordered[:4]
    assert worst == ordered[4:][-4:]
    assert best + middle + worst == sorted({*best, *middle, *worst}, reverse=True)
    assert len(best + middle + worst) == min(images, 12)
    if images == 40:
        assert middle == ordered[18:22]


def test_the_page_shows_scores_and_each_image_under_both_maps(tmp_path: Path) -> None:
    location = data_set(tmp_path, looks(images=5))
    page = page_of(location, GradientTeacher(), {"images without a fixation": 3})
    assert page.count('class="pair"') == 5
    assert page.count('class="heat"') == page.count('class="photograph"') == 10
    assert all(f"photo{index:02}.jpg" in page for index in range(5))
    assert "human split-half" in page
    assert "Left out of the data set: 3 images without a fixation" in page
    assert "&lt;b&gt;mine&lt;/b&gt;" in page
    assert "gaze points</label>" not in page


def test_the_page_names_constant_maps_and_images_of_one_subject(tmp_path: Path) -> None:
    page = page_of(data_set(tmp_path, looks(images=12, subjects=1)), Flat())
    names = ", ".join(f"photo{index:02}.jpg" for index in range(10))
    assert f"same everywhere, which scores like chance: 12 images ({names} and 2 more)" in page
    assert f"Fewer than 2 subjects, so no human split-half: 12 images ({names} and 2 more)" in page
