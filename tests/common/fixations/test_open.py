import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.errors import UserError
from common.fixations import FORMATS, FixatedImage, exclusion_notes, open_fixations
from common.fixations.collector import Collector, RawFixations, list_image_files
from common.fixations.exclusions import MISSING, OUTSIDE, REPEATED, UNFIXATED, UNPLACED, UNREADABLE
from tests.support.data.pictures import encoded, exif, jpeg, photograph, write

WIDTH, HEIGHT = 64, 48


def write_csv(folder: Path, lines: str = "a.jpg,0,10,12\n") -> Path:
    """Write one image and a table of fixations with these lines; return the folder."""
    table = "image,subject,x,y\n" + lines
    return write(folder, {"images/a.jpg": jpeg(WIDTH, HEIGHT), "fixations.csv": table.encode()})


def collect(root: Path, positions: np.ndarray, subjects: list[int] | None = None, **options: object) -> FixatedImage:
    """Return one image with these fixations, in pixels; subjects are 0 by default."""
    collector = Collector(root, list_image_files(write(root, {"images/a.jpg": jpeg(WIDTH, HEIGHT)}) / "images"))
    numbers = np.zeros(len(positions)) if subjects is None else np.array(subjects)
    collector.add("a.jpg", RawFixations(np.array(positions, np.float64).reshape(-1, 2), numbers), **options)
    [image] = collector.finish().images
    return image


def test_an_unknown_format_is_a_user_error_that_lists_the_known_formats(tmp_path: Path) -> None:
    for location in (f"mit1003:{tmp_path}", str(tmp_path), "salicon", "csv:", ""):
        with pytest.raises(UserError) as error:
            open_fixations(location)
        assert all(name in str(error.value) for name in FORMATS)


@pytest.mark.parametrize("data_format", sorted(FORMATS))
def test_a_missing_folder_is_a_user_error(data_format: str, tmp_path: Path) -> None:
    for folder in ("absent", "absent:val", "file"):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(UserError, match="there is no folder"):
            open_fixations(f"{data_format}:{tmp_path / folder}")


@pytest.mark.parametrize("data_format", sorted(FORMATS))
def test_an_empty_folder_is_a_user_error_that_says_what_was_expected(data_format: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected"):
        open_fixations(f"{data_format}:{tmp_path}")


def test_a_split_of_a_data_set_without_splits_is_a_user_error(tmp_path: Path) -> None:
    write_csv(tmp_path)
    with pytest.raises(UserError, match="the format csv has no splits"):
        open_fixations(f"csv:{tmp_path}:val")


def test_a_colon_in_the_name_of_a_folder_does_not_begin_a_split(tmp_path: Path) -> None:
    write_csv(tmp_path / "a:b")
    assert len(open_fixations(f"csv:{tmp_path / 'a:b'}").images) == 1


def test_pixels_are_read_on_request_only(tmp_path: Path) -> None:
    write_csv(tmp_path)
    data = jpeg(WIDTH, HEIGHT)
    (tmp_path / "images" / "a.jpg").write_bytes(data[:700])  # a complete header, but truncated pixels
    [image] = open_fixations(f"csv:{tmp_path}").images
    with pytest.raises(UserError, match=r"a\.jpg: the image cannot be read: truncated"):
        image.pixels()
    (tmp_path / "images" / "a.jpg").write_bytes(data)
    pixels = image.pixels()
    assert tuple(pixels.shape) == (3, image.height, image.width) == (3, HEIGHT, WIDTH)
    difference = np.abs(pixels.permute(1, 2, 0).numpy().astype(int) - np.asarray(photograph(WIDTH, HEIGHT)))
    assert difference.mean() < 4


def test_an_image_that_changed_after_opening_is_a_user_error(tmp_path: Path) -> None:
    write_csv(tmp_path)
    [image] = open_fixations(f"csv:{tmp_path}").images
    (tmp_path / "images" / "a.jpg").write_bytes(jpeg(HEIGHT, WIDTH))
    with pytest.raises(UserError, match=r"expected 64 x 48 pixels, as its header says, not 48 x 64"):
        image.pixels()
    (tmp_path / "images" / "a.jpg").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        image.pixels()


def test_the_frame_is_that_of_the_stored_pixels_regardless_of_exif(tmp_path: Path) -> None:
    write_csv(tmp_path)
    (tmp_path / "images" / "a.jpg").write_bytes(encoded(photograph(WIDTH, HEIGHT), "JPEG", exif=exif(6)))
    [image] = open_fixations(f"csv:{tmp_path}").images
    assert (image.width, image.height) == (WIDTH, HEIGHT)
    assert tuple(image.pixels().shape) == (3, HEIGHT, WIDTH)


def test_images_are_pickled_without_their_pixels(tmp_path: Path) -> None:
    [image] = open_fixations(f"csv:{write_csv(tmp_path)}").images
    pickled = pickle.dumps(image)
    assert len(pickled) < 2000
    assert np.array_equal(pickle.loads(pickled).fixations, image.fixations)


def test_the_attention_map_is_highest_at_the_fixation(tmp_path: Path) -> None:
    [image] = open_fixations(f"csv:{write_csv(tmp_path, 'a.jpg,0,50.5,10.5' + chr(10))}").images
    attention = np.asarray(image.attention_map(HEIGHT, WIDTH))
    assert attention.shape == (HEIGHT, WIDTH)
    assert np.unravel_index(attention.argmax(), attention.shape) == (10, 50)
    spread = np.asarray(image.attention_map(HEIGHT, WIDTH, sigma=10.0))
    assert spread.max() / spread.sum() < attention.max() / attention.sum()


@given(arrays.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.floats(-20, 80)))
def test_fixations_outside_of_the_frame_are_excluded_and_counted(
    tmp_path_factory: pytest.TempPathFactory, positions: np.ndarray
) -> None:
    root = tmp_path_factory.mktemp("data")
    inside = ((positions >= 0) & (positions <= [WIDTH, HEIGHT])).all(axis=1)
    files = list_image_files(write(root, {"images/a.jpg": jpeg(WIDTH, HEIGHT)}) / "images")
    collector = Collector(root, files)
    collector.add("a.jpg", RawFixations(positions, np.arange(len(positions))))
    if inside.sum() == 0 or (~inside).sum() > len(inside) / 2:
        with pytest.raises(UserError):
            collector.finish()
        return
    [image], excluded, _ = collector.finish()
    assert excluded == ({OUTSIDE: (~inside).sum()} if not inside.all() else {})
    assert image.subjects.tolist() == np.flatnonzero(inside).tolist()
    assert image.fixations.dtype == np.float32
    for axis, side in enumerate((WIDTH, HEIGHT)):
        expected = [min(max(position, 0.5), side - 0.5) / side for position in positions[inside, axis]]
        assert image.fixations[:, axis].tolist() == pytest.approx(expected, abs=1e-6)


def test_fixations_on_the_border_belong_to_the_outermost_pixels(tmp_path: Path) -> None:
    image = collect(tmp_path, [[0, 0], [WIDTH, HEIGHT], [32, 24]])
    expected = [[0.5 / WIDTH, 0.5 / HEIGHT], [1 - 0.5 / WIDTH, 1 - 0.5 / HEIGHT], [0.5, 0.5]]
    assert image.fixations == pytest.approx(np.array(expected))


def test_fixations_without_a_position_are_excluded_and_counted(tmp_path: Path) -> None:
    write_csv(tmp_path, "a.jpg,0,nan,3\na.jpg,0,,\na.jpg,1,5,6\na.jpg,1,5,7\na.jpg,1,inf,7\n")
    [image], excluded, _ = open_fixations(f"csv:{tmp_path}")
    assert excluded == {UNPLACED: 2, OUTSIDE: 1}
    assert image.subjects.tolist() == [1, 1]


def test_coordinates_of_another_frame_are_a_user_error(tmp_path: Path) -> None:
    write_csv(tmp_path, "a.jpg,0,640,480\na.jpg,0,700,500\na.jpg,0,10,10\n")
    with pytest.raises(
        UserError, match="2 of 3 fixations lie outside of their images; their coordinates must be pixels"
    ):
        open_fixations(f"csv:{tmp_path}")


def test_images_without_a_fixation_are_excluded_and_counted(tmp_path: Path) -> None:
    write_csv(tmp_path, "a.jpg,0,5,6\nb.jpg,0,nan,nan\n")
    write(tmp_path, {"images/b.jpg": jpeg(seed=1), "images/c.jpg": jpeg(seed=2)})
    images, excluded, _ = open_fixations(f"csv:{tmp_path}")
    assert [image.name for image in images] == ["a.jpg"]
    assert excluded[UNFIXATED] == 2


def test_images_without_a_file_are_excluded_and_counted(tmp_path: Path) -> None:
    images, excluded, _ = open_fixations(
        f"csv:{write_csv(tmp_path, 'a.jpg,0,5,6' + chr(10) + 'b.jpg,0,5,6' + chr(10))}"
    )
    assert len(images) == 1
    assert excluded == {MISSING: 1}


def test_a_data_set_without_any_image_file_is_a_user_error_with_an_example(tmp_path: Path) -> None:
    write_csv(tmp_path, "a,0,5,6\n")
    with pytest.raises(
        UserError, match=r"expected images with fixations; found 1 .* without a file, 1 .* \(first: a\)"
    ):
        open_fixations(f"csv:{tmp_path}")


@pytest.mark.parametrize("content", [b"<html>404</html>", b""])
def test_a_file_that_is_not_an_image_is_excluded_and_named(tmp_path: Path, content: bytes) -> None:
    write_csv(tmp_path, "a.jpg,0,5,6\nb.jpg,0,5,6\n")
    write(tmp_path, {"images/b.jpg": content})
    found = open_fixations(f"csv:{tmp_path}")
    assert [image.name for image in found.images] == ["a.jpg"]
    assert (found.excluded, found.first_excluded) == ({UNREADABLE: 1}, {UNREADABLE: ["b.jpg"]})
    (tmp_path / "images" / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"expected images with fixations; found 2 .* cannot be read \(first: a\.jpg\)"):
        open_fixations(f"csv:{tmp_path}")


def test_notes_name_the_first_three_images_of_each_reason(tmp_path: Path) -> None:
    missing = "".join(f"{number}.jpg,0,5,6\n" for number in range(5))
    write_csv(tmp_path, f"a.jpg,0,5,6\na.jpg,0,nan,6\na.jpg,0,5,900\n{missing}")
    write(tmp_path, {f"images/unseen{number}.jpg": jpeg() for number in (1, 0)})
    _, excluded, first_excluded = open_fixations(f"csv:{tmp_path}")
    assert exclusion_notes("the data", excluded, first_excluded) == [
        "Excluded from the data: 1 fixation outside of the image (first: a.jpg)",
        "Excluded from the data: 1 fixation without a position (first: a.jpg)",
        "Excluded from the data: 5 images with fixations but without a file (first: 0.jpg, 1.jpg, 2.jpg)",
        "Excluded from the data: 2 images without a fixation (first: unseen0.jpg, unseen1.jpg)",
    ]


def test_trajectories_are_reduced_to_the_first_sample_of_each_subject_at_every_pixel(tmp_path: Path) -> None:
    positions = [[3.5, 4.5], [9.5, 4.5], [3.5, 4.5], [3.5, 4.5], [3.9, 4.1], [4.5, 3.5]]
    image = collect(tmp_path, positions, [7, 7, 7, 2, 7, 7], trajectory=True)
    assert image.subjects.tolist() == [7, 7, 2, 7]
    expected = np.array([[3.5, 4.5], [9.5, 4.5], [3.5, 4.5], [4.5, 3.5]])
    assert image.fixations * [WIDTH, HEIGHT] == pytest.approx(expected)


def test_repeated_fixations_outside_of_trajectories_are_all_used(tmp_path: Path) -> None:
    image = collect(tmp_path, [[3.5, 4.5]] * 3)
    assert len(image.fixations) == 3


def test_repeated_samples_of_a_trajectory_are_counted(tmp_path: Path) -> None:
    collector = Collector(tmp_path, list_image_files(write_csv(tmp_path) / "images"))
    collector.add("a.jpg", RawFixations(np.array([[3.5, 4.5]] * 3), np.zeros(3)), trajectory=True)
    assert collector.finish().excluded == {REPEATED: 2}


def test_a_frame_is_scaled_to_the_image_unless_its_aspect_ratio_differs(tmp_path: Path) -> None:
    image = collect(tmp_path, [[320, 120]], frame=(640, 480))
    assert image.fixations.tolist() == [[0.5, 0.25]]
    with pytest.raises(UserError, match=r"a\.jpg: the image is 64 x 48 pixels, .* recorded on 480 x 640 pixels"):
        collect(tmp_path, [[320, 120]], frame=(480, 640))
