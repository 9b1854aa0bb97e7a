import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.errors import UserError
from common.fixations import FORMATS, FixatedImage, exclusion_notes, open_fixations
from common.fixations.collector import (
    MISSING,
    OUTSIDE,
    REPEATED,
    UNFIXATED,
    UNPLACED,
    UNREADABLE,
    Collector,
    RawFixations,
    image_files,
)
from tests.support.pictures import encoded, exif, jpeg, photograph, write

WIDTH, HEIGHT = 64, 48


def own_table(folder: Path, lines: str = "a.jpg,0,10,12\n") -> Path:
    table = "image,subject,x,y\n" + lines
    return write(folder, {"images/a.jpg": jpeg(WIDTH, HEIGHT), "fixations.csv": table.encode()})


def collected(root: Path, positions: np.ndarray, subjects: list[int] | None = None, **options: object) -> FixatedImage:
    collector = Collector(root, image_files(write(root, {"images/a.jpg": jpeg(WIDTH, HEIGHT)}) / "images"))
    numbers = np.zeros(len(positions)) if subjects is None else np.array(subjects)
    collector.add("a.jpg", RawFixations(np.array(positions, np.float64).reshape(-1, 2), numbers), **options)
    [image] = collector.finish().images
    return image


def test_an_unknown_format_is_a_user_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    for location in (f"mit1003:{tmp_path}", str(tmp_path), "salicon", "csv:", ""):
        with pytest.raises(UserError) as error:
            open_fixations(location)
        assert all(name in str(error.value) for name in FORMATS)


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_a_folder_that_is_not_there_is_a_user_error(form: str, tmp_path: Path) -> None:
    for folder in ("absent", "absent:val", "file"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UserError, match="there is no folder"):
            open_fixations(f"{form}:{tmp_path / folder}")


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_an_empty_folder_is_a_user_error_that_says_what_was_expected(form: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected"):
        open_fixations(f"{form}:{tmp_path}")


def test_a_split_of_a_data_set_without_splits_is_a_user_error(tmp_path: Path) -> None:
    own_table(tmp_path)
    with pytest.raises(UserError, match="csv has no splits"):
        open_fixations(f"csv:{tmp_path}:val")


def test_a_colon_in_a_folder_s_name_is_no_split(tmp_path: Path) -> None:
    own_table(tmp_path / "a:b")
    assert len(open_fixations(f"csv:{tmp_path / 'a:b'}").images) == 1


def test_pixels_are_read_only_when_asked_for(tmp_path: Path) -> None:
    own_table(tmp_path)
    data = jpeg(WIDTH, HEIGHT)
    (tmp_path / "images" / "a.jpg").write_bytes(data[:700])  # whole header, no picture
    [image] = open_fixations(f"csv:{tmp_path}").images
    with pytest.raises(UserError, match=r"a\.jpg: the image cannot be read: truncated"):
        image.pixels()
    (tmp_path / "images" / "a.jpg").write_bytes(data)
    pixels = image.pixels()
    assert tuple(pixels.shape) == (3, image.height, image.width) == (3, HEIGHT, WIDTH)
    difference = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(photograph(WIDTH, HEIGHT)))
    assert difference.mean() < 10


def test_an_image_that_changed_since_the_reading_is_a_user_error(tmp_path: Path) -> None:
    own_table(tmp_path)
    [image] = open_fixations(f"csv:{tmp_path}").images
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(HEIGHT, WIDTH))
    with pytest.raises(UserError, match=r"expected 64 x 48 pixels, as its header says, not 48 x 64"):
        image.pixels()
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        image.pixels()


def test_the_frame_is_that_of_the_stored_pixels_whatever_exif_says(tmp_path: Path) -> None:
    own_table(tmp_path)
    (tmp_path / "images" / "a.jpg").write_bytes(encoded(photograph(WIDTH, HEIGHT), "JPEG", exif=exif(6)))
    [image] = open_fixations(f"csv:{tmp_path}").images
    assert (image.width, image.height) == (WIDTH, HEIGHT)
    assert tuple(image.pixels().shape) == (3, HEIGHT, WIDTH)


def test_images_go_to_other_processes_without_their_pixels(tmp_path: Path) -> None:
    [image] = open_fixations(f"csv:{own_table(tmp_path)}").images
    sent = pickle.dumps(image)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).fixations, image.fixations)


def test_the_map_is_highest_where_people_looked(tmp_path: Path) -> None:
    [image] = open_fixations(f"csv:{own_table(tmp_path, 'a.jpg,0,50.5,10.5' + chr(10))}").images
    attention = np.asarray(image.attention_map(HEIGHT, WIDTH))
    assert attention.shape == (HEIGHT, WIDTH)
    assert np.unravel_index(attention.argmax(), attention.shape) == (10, 50)
    spread = np.asarray(image.attention_map(HEIGHT, WIDTH, sigma=10.0))
    assert spread.max() / spread.sum() < attention.max() / attention.sum()


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.floats(-20, 80)))
def test_only_fixations_in_the_frame_are_kept_and_all_are_counted(
    tmp_path_factory: pytest.TempPathFactory, positions: np.ndarray
) -> None:
    root = tmp_path_factory.mktemp("looks")
    inside = ((positions >= 0) & (positions <= [WIDTH, HEIGHT])).all(axis=1)
    files = image_files(write(root, {"images/a.jpg": jpeg(WIDTH, HEIGHT)}) / "images")
    collector = Collector(root, files)
    collector.add("a.jpg", RawFixations(positions, np.arange(len(positions))))
    if inside.sum() == 0 or (~inside).sum() > len(inside) / 2:
        with pytest.raises(UserError):
            collector.finish()
        return
    [image], left_out, _ = collector.finish()
    assert left_out == ({OUTSIDE: (~inside).sum()} if not inside.all() else {})
    assert image.subjects.tolist() == np.flatnonzero(inside).tolist()
    assert image.fixations.dtype == np.float32
    pixels = np.floor(image.fixations * [WIDTH, HEIGHT])
    assert np.abs(pixels - positions[inside]).max() <= 1
    assert (pixels >= 0).all()
    assert (pixels < [WIDTH, HEIGHT]).all()


def test_fixations_on_the_very_border_belong_to_the_border_s_pixels(tmp_path: Path) -> None:
    image = collected(tmp_path, [[0, 0], [WIDTH, HEIGHT], [32, 24]])
    expected = [[0.5 / WIDTH, 0.5 / HEIGHT], [1 - 0.5 / WIDTH, 1 - 0.5 / HEIGHT], [0.5, 0.5]]
    assert image.fixations == pytest.approx(np.array(expected))


def test_fixations_without_a_position_are_dropped_and_counted(tmp_path: Path) -> None:
    own_table(tmp_path, "a.jpg,0,nan,3\na.jpg,0,,\na.jpg,1,5,6\na.jpg,1,5,7\na.jpg,1,inf,7\n")
    [image], left_out, _ = open_fixations(f"csv:{tmp_path}")
    assert left_out == {UNPLACED: 2, OUTSIDE: 1}
    assert image.subjects.tolist() == [1, 1]


def test_coordinates_of_another_frame_are_a_user_error(tmp_path: Path) -> None:
    own_table(tmp_path, "a.jpg,0,640,480\na.jpg,0,700,500\na.jpg,0,10,10\n")
    with pytest.raises(
        UserError, match="2 of 3 fixations lie outside of their images; their coordinates must be pixels"
    ):
        open_fixations(f"csv:{tmp_path}")


def test_images_without_a_fixation_are_kept_out_and_counted(tmp_path: Path) -> None:
    own_table(tmp_path, "a.jpg,0,5,6\nb.jpg,0,nan,nan\n")
    write(tmp_path, {"images/b.jpg": jpeg(seed=1), "images/c.jpg": jpeg(seed=2)})
    images, left_out, _ = open_fixations(f"csv:{tmp_path}")
    assert [image.name for image in images] == ["a.jpg"]
    assert left_out[UNFIXATED] == 2


def test_images_without_a_file_are_counted(tmp_path: Path) -> None:
    images, left_out, _ = open_fixations(
        f"csv:{own_table(tmp_path, 'a.jpg,0,5,6' + chr(10) + 'b.jpg,0,5,6' + chr(10))}"
    )
    assert len(images) == 1
    assert left_out == {MISSING: 1}


def test_a_data_set_of_which_no_image_is_there_is_a_user_error_that_names_one(tmp_path: Path) -> None:
    own_table(tmp_path, "a,0,5,6\n")
    with pytest.raises(UserError, match=r"no image with fixations; found 1 .* no file, 1 .* \(the first: a\)"):
        open_fixations(f"csv:{tmp_path}")


@pytest.mark.parametrize("content", [b"<html>404</html>", b""])
def test_a_file_that_is_no_image_is_kept_out_and_named(tmp_path: Path, content: bytes) -> None:
    own_table(tmp_path, "a.jpg,0,5,6\nb.jpg,0,5,6\n")
    write(tmp_path, {"images/b.jpg": content})
    found = open_fixations(f"csv:{tmp_path}")
    assert [image.name for image in found.images] == ["a.jpg"]
    assert (found.left_out, found.first) == ({UNREADABLE: 1}, {UNREADABLE: ["b.jpg"]})
    (tmp_path / "images" / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"no image with fixations; found 2 .* cannot be read \(the first: a\.jpg\)"):
        open_fixations(f"csv:{tmp_path}")


def test_the_first_three_images_of_each_fault_are_named(tmp_path: Path) -> None:
    missing = "".join(f"{number}.jpg,0,5,6\n" for number in range(5))
    own_table(tmp_path, f"a.jpg,0,5,6\na.jpg,0,nan,6\na.jpg,0,5,900\n{missing}")
    write(tmp_path, {f"images/unseen{number}.jpg": jpeg() for number in (1, 0)})
    _, left_out, first = open_fixations(f"csv:{tmp_path}")
    assert exclusion_notes("here", left_out, first) == [
        "Left out of here: 1 fixations outside of their image (the first: a.jpg)",
        "Left out of here: 1 fixations without a position (the first: a.jpg)",
        "Left out of here: 5 images that have fixations but no file (the first: 0.jpg, 1.jpg, 2.jpg)",
        "Left out of here: 2 images without a fixation (the first: unseen0.jpg, unseen1.jpg)",
    ]


def test_of_trajectories_each_subject_s_first_sample_at_every_pixel_is_kept(tmp_path: Path) -> None:
    positions = [[3.5, 4.5], [9.5, 4.5], [3.5, 4.5], [3.5, 4.5], [3.9, 4.1], [4.5, 3.5]]
    image = collected(tmp_path, positions, [7, 7, 7, 2, 7, 7], trajectory=True)
    assert image.subjects.tolist() == [7, 7, 2, 7]
    expected = np.array([[3.5, 4.5], [9.5, 4.5], [3.5, 4.5], [4.5, 3.5]])
    assert image.fixations * [WIDTH, HEIGHT] == pytest.approx(expected)


def test_repeated_fixations_that_are_no_trajectory_stay(tmp_path: Path) -> None:
    image = collected(tmp_path, [[3.5, 4.5]] * 3)
    assert len(image.fixations) == 3


def test_what_a_trajectory_repeats_is_counted(tmp_path: Path) -> None:
    collector = Collector(tmp_path, image_files(own_table(tmp_path) / "images"))
    collector.add("a.jpg", RawFixations(np.array([[3.5, 4.5]] * 3), np.zeros(3)), trajectory=True)
    assert collector.finish().left_out == {REPEATED: 2}


def test_a_frame_of_the_image_s_shape_scales_and_another_is_a_user_error(tmp_path: Path) -> None:
    image = collected(tmp_path, [[320, 120]], frame=(640, 480))
    assert image.fixations.tolist() == [[0.5, 0.25]]
    with pytest.raises(UserError, match=r"a\.jpg: the image is 64 x 48 pixels, .* recorded on 480 x 640 pixels"):
        collected(tmp_path, [[320, 120]], frame=(480, 640))
