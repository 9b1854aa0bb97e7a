"""Tests of the bundled weights in the network, on photographs of scikit-image: they need no development data."""

import numpy as np
import pytest
import torch

from labeler.teacher.model import TeacherModel
from labeler.teacher.weights import find_teacher
from tests.support.golden_maps import PHOTOS, predict_map, read_golden_maps

# In float32, on any instruction set and number of threads, the means differ from the golden ones by up to 1.6e-5. They
# differ by 1.4e-4 or more with PyTorch's epsilon of GroupNorm, and by 0.009 or more with any other gate, resize, ...
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def teacher() -> TeacherModel:
    return find_teacher("bundled").build()


def test_golden_maps_are_those_of_the_bundled_weights() -> None:
    assert read_golden_maps()["teacher"] == find_teacher("bundled").identity.id
    assert tuple(read_golden_maps()["maps"]) == PHOTOS


@pytest.mark.parametrize("photo", PHOTOS)
def test_bundled_teacher_predicts_the_golden_map(photo: str, teacher: TeacherModel) -> None:
    golden = read_golden_maps()["maps"][photo]
    means, maximum = predict_map(teacher, photo, torch.float32)
    assert np.shape(golden["means"]) == means.shape == (12, 16)
    assert np.abs(means - golden["means"]).max() < TOLERANCE
    assert maximum == pytest.approx(golden["maximum"], abs=TOLERANCE)
