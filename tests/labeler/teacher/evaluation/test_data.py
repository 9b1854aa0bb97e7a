from pathlib import Path

import pytest

from common.errors import UserError
from labeler.teacher.evaluation.data import open_data, read_names, select_images
from tests.support.seeing_teachers import data_set, looks


@pytest.fixture
def location(tmp_path: Path) -> str:
    return data_set(tmp_path / "data", looks(images=5))


def names_file(folder: Path, text: str) -> Path:
    path = folder / "names.txt"
    path.write_bytes(text.encode())
    return path


def test_without_names_all_images_are_scored(location: str) -> None:
    data = open_data([location])
    assert select_images(data, None) == {location: data[location].images}


def test_names_restrict(location: str, tmp_path: Path) -> None:
    path = names_file(tmp_path, "photo03.jpg\r\n\nphoto01.jpg\nphoto01.jpg")
    [images] = select_images(open_data([location]), path).values()
    assert [image.name for image in images] == ["photo01.jpg", "photo03.jpg"]


def test_names_of_no_image_are_a_user_error(location: str, tmp_path: Path) -> None:
    path = names_file(tmp_path, "photo03.jpg\nz.jpg\nx.jpg\ny.jpg\nw.jpg\n")
    with pytest.raises(UserError, match=r"4 of 5 names are no image .*: w\.jpg, x\.jpg, y\.jpg and 1 more"):
        select_images(open_data([location]), path)


def test_a_data_set_of_which_nothing_is_named_is_a_user_error(location: str, tmp_path: Path) -> None:
    other = data_set(tmp_path / "other", looks(images=1))
    path = names_file(tmp_path, "photo03.jpg\n")
    with pytest.raises(UserError, match=f"names no image of --data {other}"):
        select_images(open_data([location, other]), path)


def test_a_names_file_that_is_absent_or_empty_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_names(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="expected names of images, one a line, found none"):
        read_names(names_file(tmp_path, "\n \n"))


def test_a_data_set_given_twice_is_a_user_error(location: str) -> None:
    with pytest.raises(UserError, match="is given twice"):
        open_data([location, location])
