import shutil

import numpy as np
import pytest
import torch

from common.errors import ImageFailure, Reason, UserError
from labeler.teacher.training.examples import (
    TARGET_SIZE,
    make_human_example,
    make_unlabeled_example,
    make_view_example,
    open_training_data,
)
from labeler.teacher.training.views import WHOLE
from tests.support.pictures import jpeg, write
from tests.support.seeing_teachers import data_set, looks


@pytest.fixture
def people(tmp_path):
    return data_set(tmp_path / "people", looks(10))


def names(images):
    return {image.path.name for image in images}


def test_a_fifth_of_the_images_validates_and_the_rest_is_learnt_from(people):
    data = open_training_data([people], [], 0.2, 0)
    assert (len(data.human), len(data.validation[people]), data.unlabelled) == (8, 2, [])
    assert not names(data.human) & names(data.validation[people])


def test_the_seed_chooses_the_validation_images(people):
    chosen = [frozenset(names(open_training_data([people], [], 0.2, seed).validation[people])) for seed in range(6)]
    assert len(set(chosen)) > 1
    assert chosen[0] == names(open_training_data([people], [], 0.2, 0).validation[people])


def test_a_picture_that_validates_in_one_data_set_is_learnt_from_in_none(people, tmp_path):
    twins = tmp_path / "twins"  # the same photographs under other names, which the seed splits otherwise
    shutil.copytree(tmp_path / "people", twins)
    rows = (twins / "fixations.csv").read_text().replace("photo", "other")
    (twins / "fixations.csv").write_text(rows)
    for path in (twins / "images").iterdir():
        path.rename(path.with_name(path.name.replace("photo", "other")))
    data = open_training_data([people, f"csv:{twins}"], [], 0.2, 0)
    pixels = {kept.path.read_bytes() for images in data.validation.values() for kept in images}
    assert data.human
    assert not pixels & {image.path.read_bytes() for image in data.human}


def test_unlabelled_photographs_are_those_of_the_folder_and_of_training_but_none_that_validates(people, tmp_path):
    write(tmp_path / "more", {f"{index}.jpg": jpeg(seed=100 + index) for index in range(3)})
    data = open_training_data([people], [str(tmp_path / "more"), str(tmp_path / "people/images")], 0.2, 0)
    assert len(data.unlabelled) == 8 + 3


def test_an_empty_folder_of_unlabelled_photographs_is_refused(people, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: there are no images in it|no images"):
        open_training_data([people], [str(tmp_path / "none")], 0.2, 0)


def test_what_is_left_out_of_a_data_set_is_noted(people, tmp_path):
    (tmp_path / "people/images/photo03.jpg").write_bytes(b"")
    notes = open_training_data([people], [], 0.2, 0).notes
    assert notes == [f"Left out of {people}: 1 images whose file cannot be read (the first: photo03.jpg)"]


def test_a_view_of_the_whole_frame_has_the_human_map(people):
    image = open_training_data([people], [], 0.2, 0).human[0]
    example = make_view_example(image, WHOLE)
    expected = image.attention_map(*TARGET_SIZE)
    torch.testing.assert_close(example.target, expected.to(example.target))
    np.testing.assert_array_equal(example.points, image.fixations)
    assert example.labelled


def test_examples_are_functions_of_their_generator(people):
    image = open_training_data([people], [], 0.2, 0).human[0]
    one, other = (make_human_example(image, np.random.default_rng(5), 0.7, 0.2) for _ in range(2))
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.target, other.target)
    assert one.colours == other.colours


def test_an_unlabelled_photograph_that_cannot_be_read_says_why(people, tmp_path):
    write(tmp_path / "more", {"broken.jpg": b"no picture"})
    data = open_training_data([people], [str(tmp_path / "more")], 0.2, 0)
    with pytest.raises(ImageFailure) as raised:
        make_unlabeled_example(data.unlabelled[-1], np.random.default_rng(0), 0.5, 0.2)
    assert raised.value.reason is Reason.NOT_AN_IMAGE
