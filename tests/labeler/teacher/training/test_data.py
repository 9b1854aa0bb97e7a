import shutil

import pytest

from common.errors import UserError
from labeler.teacher.training.data import open_training_data
from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.data.pictures import jpeg, write


@pytest.fixture
def people(tmp_path):
    return write_fixation_data(tmp_path / "people", random_fixations(10))


def file_names(images):
    return {image.path.name for image in images}


def test_a_fifth_of_the_images_is_held_out(people):
    data = open_training_data([people], [], 0.2, 0)
    assert (len(data.fixated), len(data.validation[people]), data.distillation) == (8, 2, [])
    assert not file_names(data.fixated) & file_names(data.validation[people])


def test_validation_images_depend_on_the_seed_only(people):
    held_out = [
        frozenset(file_names(open_training_data([people], [], 0.2, seed).validation[people])) for seed in range(6)
    ]
    assert len(set(held_out)) > 1
    assert held_out[0] == file_names(open_training_data([people], [], 0.2, 0).validation[people])


def test_validation_image_of_one_data_set_is_not_trained_on_in_another(people, tmp_path):
    copies = tmp_path / "copies"  # the same photographs under other names, so the seed divides them differently
    shutil.copytree(tmp_path / "people", copies)
    rows = (copies / "fixations.csv").read_text().replace("photo", "other")
    (copies / "fixations.csv").write_text(rows)
    for path in (copies / "images").iterdir():
        path.rename(path.with_name(path.name.replace("photo", "other")))
    data = open_training_data([people, f"csv:{copies}"], [], 0.2, 0)
    held_out = {image.path.read_bytes() for images in data.validation.values() for image in images}
    assert data.fixated
    assert not held_out & {image.path.read_bytes() for image in data.fixated}


def test_distillation_images_are_those_of_the_folders_and_the_training_images(people, tmp_path):
    write(tmp_path / "more", {f"{index}.jpg": jpeg(seed=100 + index) for index in range(3)})
    data = open_training_data([people], [str(tmp_path / "more"), str(tmp_path / "people/images")], 0.2, 0)
    assert len(data.distillation) == 8 + 3


def test_empty_distillation_folder_is_a_user_error(people, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: expected images, found none|no images"):
        open_training_data([people], [str(tmp_path / "none")], 0.2, 0)


def test_exclusions_are_noted(people, tmp_path):
    (tmp_path / "people/images/photo03.jpg").write_bytes(b"")
    notes = open_training_data([people], [], 0.2, 0).notes
    assert notes == [f"Excluded from {people}: 1 image whose file cannot be read (first: photo03.jpg)"]
