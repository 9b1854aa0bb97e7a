import math
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.fixations import open_fixations
from common.fixations.data import FixationData
from tests.support.data.pictures import jpeg

HEADER = "image,subject,x,y,duration_ms\n"


def write_folder(root: Path, table: str | bytes, names: tuple[str, ...] = ("a.jpg", "b.jpg")) -> Path:
    for seed, name in enumerate(names):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(jpeg(seed=seed))
    (root / "fixations.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    return root


def read(root: Path) -> FixationData:
    return open_fixations(f"csv:{root}")


def test_fixations_subjects_and_durations_are_read(tmp_path: Path) -> None:
    table = HEADER + "b.jpg,1,32,12,200\na.jpg,0,16.5,24,150.5\nb.jpg,0,48,36,\n"
    images, excluded, _ = read(write_folder(tmp_path, table))
    assert [image.name for image in images] == ["a.jpg", "b.jpg"]
    assert not excluded
    assert images[1].fixations.tolist() == [[0.5, 0.25], [0.75, 0.75]]
    assert images[1].subjects.tolist() == [1, 0]
    assert images[1].durations[0] == 200
    assert math.isnan(images[1].durations[1])
    assert images[0].path == tmp_path / "images" / "a.jpg"


def test_durations_are_optional_and_other_columns_are_ignored_in_any_order(tmp_path: Path) -> None:
    table = "y,weather,x,subject,image\n12,sunny,32,0,a.jpg\n"
    [image] = read(write_folder(tmp_path, table)).images
    assert image.fixations.tolist() == [[0.5, 0.25]]
    assert image.durations is None


def test_a_subject_has_the_same_number_in_all_images_and_may_be_a_name(tmp_path: Path) -> None:
    table = HEADER + "a.jpg,Zoë,1,1,1\na.jpg,Ann,1,1,1\nb.jpg,Ann,1,1,1\nb.jpg,Zoë,1,1,1\n"
    images = read(write_folder(tmp_path, table)).images
    assert [image.subjects.tolist() for image in images] == [[1, 0], [0, 1]]


def test_numeric_subjects_are_numbered_in_numeric_order(tmp_path: Path) -> None:
    table = HEADER + "".join(f"a.jpg,{subject},1,1,1\n" for subject in (10, 2, 7))
    [image] = read(write_folder(tmp_path, table)).images
    assert image.subjects.tolist() == [2, 0, 1]


def test_images_in_subfolders_are_found(tmp_path: Path) -> None:
    table = HEADER + "cats/x y.jpg,0,1,1,1\n"
    [image] = read(write_folder(tmp_path, table, ("cats/x y.jpg",))).images
    assert image.name == "cats/x y.jpg"


def test_a_table_exported_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    table = '\ufeffimage, subject, x, y\r\n"a.jpg", 0, 32, 12\r\n\r\na.jpg,1,16,12\r\n'
    [image] = read(write_folder(tmp_path, table)).images
    assert image.fixations.tolist() == [[0.5, 0.25], [0.25, 0.25]]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", r"fixations\.csv: expected the columns image, subject, x, y; image is missing in: nothing"),
        ("image,x,y\na.jpg,1,2\n", "subject is missing in: image, x, y"),
        ("image;subject;x;y\na.jpg;0;1;2\n", "image is missing in: image;subject;x;y"),
        (HEADER + "a.jpg,0,1,1,1\na.jpg,0,left,1,1\n", r"fixations\.csv: line 3: x: expected a number, found 'left'"),
        (HEADER + "a.jpg,0,1,1,long\n", "line 2: duration_ms: expected a number, found 'long'"),
        (HEADER + "a.jpg,,1,1,1\n", "line 2: subject is empty"),
        (HEADER + " ,0,1,1,1\n", "line 2: image is empty"),
        (HEADER + "a.jpg,0,1\n", "line 2: expected 5 fields, found 3"),
        (HEADER + "a.jpg,0,1,5,2,5,1\n", "line 2: expected 5 fields, found 7"),
        (HEADER, r"expected images with fixations; found 2 images without a fixation"),
        (b"image,subject,x,y\n\xff\xfe.jpg,0,1,1\n", r"fixations\.csv: cannot be read as a table"),
    ],
)
def test_a_malformed_table_is_a_user_error(table: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(write_folder(tmp_path, table))


def test_a_folder_without_images_or_table_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"there is no .*fixations\.csv"):
        read(tmp_path)
    (tmp_path / "images").rmdir()
    (tmp_path / "fixations.csv").write_text(HEADER)
    with pytest.raises(UserError, match=r"there is no .*images"):
        read(tmp_path)


def test_real_eye_tracking_of_crowds_is_read(shared_data: Path) -> None:
    images, excluded, _ = read(shared_data / "eyecrowd")
    assert len(images) == 500
    assert not excluded
    assert sum(len(image.fixations) for image in images) == 126_348
    assert {number for image in images for number in image.subjects} == set(range(16))
    assert {(image.width, image.height) for image in images} == {(512, 384)}
    assert images[0].fixations[0] == pytest.approx([239.6 / 512, 228.1 / 384])
    assert np.mean([image.durations.mean() for image in images]) == pytest.approx(232, abs=2)
