from pathlib import Path

import pytest

from common.errors import UserError
from labeler.teacher.evaluation.data import open_data, read_names, select_images
from tests.support.data.fixation_data import random_fixations, write_fixation_data


@pytest.fixture
def location(tmp_path: Path) -> str:
    return write_fixation_data(tmp_path / "data", random_fixations(images=5))


def write_names(folder: Path, text: str) -> Path:
    path = folder / "names.txt"
    path.write_bytes(text.encode())
    return path


def test_without_names_file_all_images_are_selected(location: str) -> None:
    data = open_data([location])
    assert select_images(data, None) == {location: data[location].images}


def test_names_file_restricts_images_and_may_hold_blank_and_repeated_lines(location: str, tmp_path: Path) -> None:
    path = write_names(tmp_path, "photo03.jpg\r\n\nphoto01.jpg\nphoto01.jpg")
    [images] = select_images(open_data([location]), path).values()
    assert [image.name for image in images] == ["photo01.jpg", "photo03.jpg"]


def test_unknown_names_are_a_user_error(location: str, tmp_path: Path) -> None:
    path = write_names(tmp_path, "photo03.jpg\nz.jpg\nx.jpg\ny.jpg\nw.jpg\n")
    with pytest.raises(UserError, match=r"names of images .*; 4 of 5 names are not: w\.jpg, x\.jpg, y\.jpg and 1 more"):
        select_images(open_data([location]), path)


def test_data_set_without_a_listed_image_is_a_user_error(location: str, tmp_path: Path) -> None:
    other = write_fixation_data(tmp_path / "other", random_fixations(images=1))
    path = write_names(tmp_path, "photo03.jpg\n")
    with pytest.raises(UserError, match=f"lists no image of --data {other}"):
        select_images(open_data([location, other]), path)


def test_absent_or_empty_names_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_names(tmp_path / "absent.txt")
    with pytest.raises(UserError, match="expected image names, one per line, found none"):
        read_names(write_names(tmp_path, "\n \n"))


def test_repeated_data_set_is_a_user_error(location: str) -> None:
    with pytest.raises(UserError, match="is given twice"):
        open_data([location, location])
