import numpy as np
import pytest
import torch

from common.errors import ImageFailure, Reason
from labeler.teacher.training.data import open_training_data
from labeler.teacher.training.examples import TARGET_SIZE, make_distillation_example, make_fixated_example
from labeler.teacher.training.views import FULL_VIEW, draw_view
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.data.pictures import write


@pytest.fixture
def people(tmp_path):
    return write_fixation_data(tmp_path / "people", random_fixations(10))


def test_full_view_has_the_human_map_and_all_fixations(people):
    image = open_training_data([people], [], 0.2, 0).fixated[0]
    example = make_fixated_example(image, FULL_VIEW)
    expected = image.attention_map(*TARGET_SIZE)
    torch.testing.assert_close(example.target, expected.to(example.target))
    np.testing.assert_array_equal(example.fixations, image.fixations)
    assert example.has_fixations


def test_equal_generators_give_equal_examples(people):
    image = open_training_data([people], [], 0.2, 0).fixated[0]
    first, second = (make_fixated_example(image, draw_view(np.random.default_rng(5), 0.7, 0.2)) for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.target, second.target)
    assert first.color_factors == second.color_factors


def test_unreadable_distillation_image_is_an_image_failure_with_its_reason(people, tmp_path):
    write(tmp_path / "more", {"broken.jpg": b"no image"})
    data = open_training_data([people], [str(tmp_path / "more")], 0.2, 0)
    with pytest.raises(ImageFailure) as raised:
        make_distillation_example(data.distillation[-1], FULL_VIEW)
    assert raised.value.reason is Reason.NOT_AN_IMAGE
