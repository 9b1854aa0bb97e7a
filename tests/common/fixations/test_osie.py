from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from scipy.ndimage import gaussian_filter

from common.errors import UserError
from common.fixations import FixatedImage, open_fixations
from common.fixations.exclusions import MISSING, OUTSIDE, REPEATED, UNFIXATED
from tests.common.fixations.osie import cells, subject, write

SIGMA = 24 / 800  # blur of the attention maps by OSIE's authors, as a fraction of the width


def trajectory(subjects: list[int], coordinates: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    numbers = np.array(subjects, np.uint16)[:, None]
    rows_and_columns = np.array(coordinates, np.uint16).reshape(-1, 2)
    return {
        "subj": numbers,
        "coord": rows_and_columns,
        "order": np.arange(1, len(numbers) + 1, dtype=np.uint8)[:, None],
    }


def test_eye_fixations_are_converted_from_one_based_x_y(tmp_path: Path) -> None:
    eye = {
        "1002.jpg": [subject((1, 1, 200), (80, 60, 250)), subject((40.5, 15.5, 99))],
        "1001.jpg": [subject((8, 6, 1))],
    }
    for folder in (write(tmp_path, eye), tmp_path / "data"):
        images, excluded, _ = open_fixations(f"osie-eye:{folder}")
        assert [image.name for image in images] == ["1001.jpg", "1002.jpg"]
        assert images[1].fixations == pytest.approx(
            np.array([[0.5 / 80, 0.5 / 60], [1 - 0.5 / 80, 1 - 0.5 / 60], [0.5, 0.25]])
        )
        assert images[1].subjects.tolist() == [0, 0, 1]
        assert images[1].durations.tolist() == [200, 250, 99]
        assert not excluded


def test_eye_subjects_are_numbered_as_in_the_file_even_if_some_have_no_fixations(tmp_path: Path) -> None:
    eye = {"1001.jpg": [subject(), np.zeros((0, 0)), subject((8, 6, 1))], "1002.jpg": [subject(), subject()]}
    [image], excluded, _ = open_fixations(f"osie-eye:{write(tmp_path, eye)}")
    assert image.subjects.tolist() == [2]
    assert excluded == {UNFIXATED: 1}


def test_eye_records_without_an_image_file_are_counted(tmp_path: Path) -> None:
    eye = {"1001.jpg": [subject((8, 6, 1), (99, 6, 1))], "1700.jpg": [subject((8, 6, 1))]}
    images, excluded, _ = open_fixations(f"osie-eye:{write(tmp_path, eye)}")
    assert len(images) == 1
    assert excluded == {MISSING: 1, UNFIXATED: 1, OUTSIDE: 1}


def test_mouse_samples_are_converted_from_one_based_row_column_and_unique_per_subject(tmp_path: Path) -> None:
    mouse = {
        "1001": trajectory([321, 321, 321, 45], [(1, 1), (60, 80), (1, 1), (1, 1)]),
        "1002": trajectory([45], [(15, 40)]),
    }
    images, excluded, _ = open_fixations(f"osie-mouse:{write(tmp_path, mouse=mouse)}")
    corner = [0.5 / 80, 0.5 / 60]
    assert images[0].fixations == pytest.approx(np.array([corner, [1 - corner[0], 1 - corner[1]], corner]))
    assert images[0].subjects.tolist() == [321, 321, 45]
    assert images[1].fixations == pytest.approx(np.array([[39.5 / 80, 14.5 / 60]]))
    assert images[0].durations is None
    assert excluded == {REPEATED: 1}


def test_eye_and_mouse_data_give_an_image_the_same_name(tmp_path: Path) -> None:
    write(tmp_path, {"1001.jpg": [subject((40, 15, 1))]}, {"1001": trajectory([1], [(15, 40)])})
    [eye], *_ = open_fixations(f"osie-eye:{tmp_path}")
    [mouse], *_ = open_fixations(f"osie-mouse:{tmp_path}")
    assert (eye.name, eye.path, eye.fixations.tolist()) == (mouse.name, mouse.path, mouse.fixations.tolist())


@pytest.mark.parametrize(
    ("fixations", "message"),
    [
        (cells([{"img": "1001.jpg"}]), r"fixations\.mat: 1001\.jpg: expected a field subjects, found img"),
        (cells([{"subjects": cells([])}]), r"fixations\.mat: record 1: expected a field img"),
        (
            cells([{"img": "1001.jpg", "subjects": cells([{"fix_x": 1.0, "fix_y": 1.0}])}]),
            r"1001\.jpg: subject 1: expected a field fix_duration, found fix_x, fix_y",
        ),
        (
            cells([{"img": "1001.jpg", "subjects": cells([{"fix_x": [1.0, 2], "fix_y": 1.0, "fix_duration": 1}])}]),
            r"1001\.jpg: subject 1: expected fields of the same length, found fix_x 2, fix_y 1, fix_duration 1",
        ),
        (
            cells([{"img": "1001.jpg", "subjects": cells([{"fix_x": "a", "fix_y": 1.0, "fix_duration": 1}])}]),
            r"1001\.jpg: subject 1: fix_x: expected numbers",
        ),
        (cells([{"img": "1001.jpg", "subjects": 3.0}]), r"1001\.jpg: subjects: expected structs"),
        (
            cells([{"img": "1001.jpg", "subjects": cells([subject((8, 6, 1))])}] * 2),
            r"found two records of fixations for 1001\.jpg",
        ),
        ("text", r"fixations\.mat: fixations: expected structs"),
    ],
)
def test_an_eye_file_of_another_structure_is_a_user_error(fixations: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    scipy.io.savemat(tmp_path / "data" / "eye" / "fixations.mat", {"fixations": fixations})
    with pytest.raises(UserError, match=message):
        open_fixations(f"osie-eye:{tmp_path}")


@pytest.mark.parametrize(
    ("struct", "message"),
    [
        ({"coord": [[1, 2]]}, r"1001\.mat: fixations: expected a field subj, found coord"),
        ({"coord": [[1, 2], [3, 4]], "subj": [1]}, r"1001\.mat: fixations: .* found coord 2, subj 1"),
        ({"coord": [[1, 2, 3]], "subj": [1]}, r"1001\.mat: fixations: coord: expected numbers in 2 columns"),
        ({"coord": [[1, 2]], "subj": [np.nan]}, r"1001\.mat: fixations: subj: expected numbers, found NaN"),
        (cells([trajectory([1], [(1, 1)])] * 2), "expected one struct with subj and coord, found 2"),
    ],
)
def test_a_mouse_file_of_another_structure_is_a_user_error(struct: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        open_fixations(f"osie-mouse:{write(tmp_path, mouse={'1001': struct})}")


@pytest.mark.parametrize("content", [b"", b"text, no MATLAB file at all", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_file_that_is_not_a_matlab_file_is_a_user_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    data = write(tmp_path) / "data"
    for path, kind in ((data / "eye" / "fixations.mat", "eye"), (data / "mouse_amt" / "1001.mat", "mouse")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=path.name):
            open_fixations(f"osie-{kind}:{tmp_path}")


def test_a_truncated_matlab_file_is_a_user_error(tmp_path: Path) -> None:
    path = write(tmp_path, {"1001.jpg": [subject((8, 6, 1))]}) / "data" / "eye" / "fixations.mat"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"fixations\.mat: cannot be read as a MATLAB file"):
        open_fixations(f"osie-eye:{tmp_path}")


def test_a_matlab_7_3_file_is_a_user_error_that_says_how_to_save_it(tmp_path: Path) -> None:
    path = write(tmp_path) / "data" / "eye" / "fixations.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UserError, match=r"MATLAB 7\.3 file; save it again with -v7"):
        open_fixations(f"osie-eye:{tmp_path}")


def test_a_folder_without_stimuli_or_recordings_is_a_user_error(tmp_path: Path) -> None:
    data = write(tmp_path) / "data"
    with pytest.raises(UserError, match=r"there is no .*fixations\.mat"):
        open_fixations(f"osie-eye:{tmp_path}")
    with pytest.raises(UserError, match="expected images with fixations; found 2 images without a fixation"):
        open_fixations(f"osie-mouse:{tmp_path}")
    (data / "mouse_amt").rmdir()
    with pytest.raises(UserError, match=r"there is no .*mouse_amt"):
        open_fixations(f"osie-mouse:{tmp_path}")


def blur(fixations: np.ndarray) -> np.ndarray:
    """Return an attention map blurred as by OSIE's authors, reduced to 200 x 150 pixels for speed."""
    columns, rows = (fixations * [200, 150]).astype(int).T
    counts = np.zeros((150, 200))
    np.add.at(counts, (rows, columns), 1)
    return gaussian_filter(counts, SIGMA * 200, mode="constant")


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(blur(first).ravel(), blur(second).ravel())[0, 1])


def split_halves(image: FixatedImage) -> tuple[np.ndarray, np.ndarray]:
    even = image.subjects % 2 == 0
    return image.fixations[even], image.fixations[~even]


def test_maps_of_real_eye_and_mouse_data_correlate_as_expected(shared_data: Path) -> None:
    eyes, eye_excluded, _ = open_fixations(f"osie-eye:{shared_data / 'osie'}")
    mice, mouse_excluded, _ = open_fixations(f"osie-mouse:{shared_data / 'osie'}")
    assert len(eyes) == len(mice) == 500
    assert not eye_excluded
    assert mouse_excluded == {REPEATED: 53_733}
    assert sum(len(image.fixations) for image in eyes) == 69_876
    assert {len(np.unique(image.subjects)) for image in eyes} <= {13, 14, 15}
    assert min(len(np.unique(image.subjects)) for image in mice) >= 88
    assert max(len(np.unique(image.subjects)) for image in mice) == 122
    pairs = list(zip(eyes, mice, strict=True))[::5]
    agreement = np.mean([correlation(eye.fixations, mouse.fixations) for eye, mouse in pairs])
    assert agreement == pytest.approx(0.816, abs=0.01)  # the value for all 700 images
    swapped = np.mean([correlation(eye.fixations, mouse.fixations[:, ::-1]) for eye, mouse in pairs[::4]])
    mirrored = np.mean([correlation(eye.fixations, abs([1, 0] - mouse.fixations)) for eye, mouse in pairs[::4]])
    assert max(swapped, mirrored) < 0.5
    assert np.mean([correlation(*split_halves(eye)) for eye, _ in pairs]) == pytest.approx(0.886, abs=0.02)
