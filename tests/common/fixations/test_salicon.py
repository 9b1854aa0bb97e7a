from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from common.errors import UserError
from common.fixations import FixationData, open_fixations
from common.fixations.exclusions import MISSING, REPEATED, UNFIXATED
from tests.common.fixations.salicon import (
    HEIGHT,
    WIDTH,
    annotation,
    entry,
    put,
    put_annotations,
    put_image,
    write_release_2015,
)
from tests.support.data.pictures import encoded, jpeg

GAZE = np.dtype([("location", "O"), ("timestamp", "O"), ("fixations", "O")])


def read(root: Path, split: str = "") -> FixationData:
    return open_fixations(f"salicon:{root}:{split}" if split else f"salicon:{root}")


def put_mat(path: Path, *subjects: list[tuple[int, int]], column: bool = True, **more: Any) -> Path:
    """Write a file of the release of 2017; `gaze` is n x 1 there, and 1 x n in the .mat files of the older release."""
    gaze = np.empty((len(subjects), 1) if column else (1, len(subjects)), GAZE)
    for number, fixations in enumerate(subjects):
        location, timestamp = np.random.default_rng(0).uniform(1, 60, (30, 2)), np.arange(30, dtype=np.uint16)[:, None]
        gaze.flat[number] = (location.astype(np.float32), timestamp, np.array(fixations, np.uint16).reshape(-1, 2))
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"image": path.stem, "resolution": np.array([[HEIGHT, WIDTH]], np.uint16), "gaze": gaze, **more}
    scipy.io.savemat(path, {name: value for name, value in content.items() if value is not None}, do_compression=True)
    return path


def write_release_2017(root: Path) -> Path:
    """Write a train and a val image in the layout of 2017, with their maps; return `root`."""
    for seed, split in enumerate(("train", "val")):
        stem = f"COCO_{split}2014_000000000001"
        put_image(root / "images" / split / f"{stem}.jpg", seed=seed)
        put(root / "maps" / split / f"{stem}.png", encoded(Image.new("L", (WIDTH, HEIGHT)), "PNG"))
        put_mat(root / "fixations" / split / f"{stem}.mat", [(1, 1), (80, 60)], [(40, 15), (40, 15)])
    return root


def test_samples_of_2015_are_converted_from_one_based_row_column_and_unique_per_worker(tmp_path: Path) -> None:
    images, excluded, _ = read(write_release_2015(tmp_path))
    assert [image.name for image in images] == ["train2014/COCO_train2014_0.jpg", "val2014/COCO_val2014_1.jpg"]
    assert [image.split for image in images] == ["train", "val"]
    expected = np.array([[0.5 / 80, 0.5 / 60], [1 - 0.5 / 80, 1 - 0.5 / 60], [39.5 / 80, 14.5 / 60]])
    for image in images:
        assert image.fixations == pytest.approx(expected)
        assert image.subjects.tolist() == [9, 9, 128]
        assert image.map_path is None
    assert excluded == {REPEATED: 2}


def test_fixations_of_2017_are_converted_from_one_based_x_y_and_all_used(tmp_path: Path) -> None:
    images, excluded, _ = read(write_release_2017(tmp_path))
    assert [image.split for image in images] == ["train", "val"]
    expected = np.array([[0.5 / 80, 0.5 / 60], [1 - 0.5 / 80, 1 - 0.5 / 60], *[[39.5 / 80, 14.5 / 60]] * 2])
    for image in images:
        assert image.name == f"{image.split}/COCO_{image.split}2014_000000000001.jpg"
        assert image.fixations == pytest.approx(expected)
        assert image.subjects.tolist() == [0, 0, 1, 1]
        assert image.map_path == tmp_path / "maps" / image.split / f"{image.path.stem}.png"
    assert not excluded


@pytest.mark.parametrize("release", [write_release_2015, write_release_2017])
def test_a_single_split_is_read_on_request(release: Any, tmp_path: Path) -> None:
    images, excluded, _ = read(release(tmp_path), "val")
    assert [image.split for image in images] == ["val"]
    assert UNFIXATED not in excluded
    with pytest.raises(UserError, match="there is no split minival; found train, val"):
        read(tmp_path, "minival")


@pytest.mark.parametrize("release", [write_release_2015, write_release_2017])
def test_images_in_one_flat_folder_have_the_split_of_their_file_name(release: Any, tmp_path: Path) -> None:
    release(tmp_path)
    for path in list((tmp_path / "images").glob("*/*.jpg")):
        path.rename(tmp_path / "images" / path.name)
    assert [(image.split, "/" in image.name) for image in read(tmp_path).images] == [("train", False), ("val", False)]
    assert len(read(tmp_path, "train").images) == 1


def test_images_of_2015_are_found_in_the_folders_of_2017(tmp_path: Path) -> None:
    write_release_2015(tmp_path)
    (tmp_path / "images" / "train2014").rename(tmp_path / "images" / "train")
    assert [image.name for image in read(tmp_path, "train").images] == ["train/COCO_train2014_0.jpg"]


def test_images_of_the_test_split_do_not_count_as_images_without_a_fixation(tmp_path: Path) -> None:
    write_release_2017(tmp_path)
    put_image(tmp_path / "images" / "test" / "COCO_test2014_1.jpg")
    put_image(tmp_path / "images" / "train" / "COCO_train2014_2.jpg")
    assert read(tmp_path).excluded == {UNFIXATED: 1}


def test_images_with_any_name_are_read(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "cat.jpg")
    put_mat(tmp_path / "fixations" / "cat.mat", [(40, 15)])
    [image] = read(tmp_path).images
    assert (image.name, image.split) == ("cat.jpg", "")


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("subjects", [[[(40, 15)]], [[(40, 15)], []], [[], [(1, 1), (2, 2)], [(3, 3)]]])
def test_gaze_is_read_as_a_row_or_as_a_column(subjects: list[Any], column: bool, tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "a.jpg")
    put_mat(tmp_path / "fixations" / "a.mat", *subjects, column=column)
    [image] = read(tmp_path).images
    expected = [number for number, fixations in enumerate(subjects) for _ in fixations]
    assert image.subjects.tolist() == expected
    assert image.fixations * [WIDTH, HEIGHT] == pytest.approx(np.concatenate([f for f in subjects if f]) - 0.5)


def test_fixations_are_scaled_to_images_that_were_resized(tmp_path: Path) -> None:
    for root in (write_release_2015(tmp_path / "2015"), write_release_2017(tmp_path / "2017")):
        before = read(root).images
        for path in (root / "images").glob("*/*.jpg"):
            path.write_bytes(jpeg(WIDTH // 2, HEIGHT // 2))
        for path in (root / "maps").glob("*/*.png"):
            path.unlink()
        after = read(root).images
        assert [image.width for image in after] == [WIDTH // 2] * 2
        assert np.abs(after[0].fixations - before[0].fixations).max() < 1 / WIDTH
        put_image(after[0].path).write_bytes(jpeg(HEIGHT, WIDTH))
        with pytest.raises(
            UserError, match=r"the image is 60 x 80 pixels, its fixations were recorded on 80 x 60 pixels"
        ):
            read(root)


def test_a_map_whose_size_differs_from_its_image_is_a_user_error(tmp_path: Path) -> None:
    write_release_2017(tmp_path)
    [path] = (tmp_path / "maps" / "val").glob("*.png")
    path.write_bytes(encoded(Image.new("L", (WIDTH, HEIGHT - 1)), "PNG"))
    with pytest.raises(UserError, match=rf"{path.name}: the map is 80 x 59 pixels, its image 80 x 60 pixels"):
        read(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match=path.name):
        read(tmp_path)


def test_images_without_a_file_or_without_fixations_are_counted(tmp_path: Path) -> None:
    write_release_2015(tmp_path / "2015")
    names = ["COCO_train2014_0.jpg", "COCO_train2014_5.jpg", "COCO_train2014_6.jpg"]
    put_image(tmp_path / "2015" / "images" / "train2014" / names[2])
    entries = [entry(number, name) for number, name in enumerate(names)]
    put_annotations(tmp_path / "2015", "train2014", entries, [annotation(0, 1, [[5, 5]]), annotation(1, 1, [[5, 5]])])
    assert read(tmp_path / "2015", "train").excluded == {MISSING: 1, UNFIXATED: 1}
    write_release_2017(tmp_path / "2017")
    put_mat(tmp_path / "2017" / "fixations" / "val" / "COCO_val2014_000000000009.mat", [(5, 5)])
    assert read(tmp_path / "2017").excluded == {MISSING: 1}


IMAGES = [entry(0, "COCO_train2014_0.jpg")]


@pytest.mark.parametrize(
    ("images", "annotations", "message"),
    [
        (None, [], "expected a list of images"),
        (IMAGES, {}, "expected a list of annotations"),
        (IMAGES, [7], "expected a list of annotations"),
        ([{**IMAGES[0], "width": None}], [], r"images\[0\]: width is missing"),
        ([{**IMAGES[0], "height": 0}], [], r"images\[0\]: expected a width and a height, found 80 x 0"),
        ([{**IMAGES[0], "id": [0]}], [], r"images\[0\]: id: expected a number"),
        (IMAGES * 2, [], r"found two records of fixations for .*COCO_train2014_0\.jpg"),
        (IMAGES, [annotation(3, 1, [[1, 1]])], r"annotations\[0\]: image_id: 3 is not the id of an image"),
        (IMAGES, [{"image_id": 0, "fixations": [[1, 1]]}], r"annotations\[0\]: worker_id is missing"),
        (IMAGES, [{"image_id": 0, "worker_id": 1}], r"annotations\[0\]: fixations is missing"),
        (IMAGES, [annotation(0, 1, [[1, 1, 1]])], r"annotations\[0\]: fixations: expected a list of \[row, column\]"),
        (IMAGES, [annotation(0, 1, [[1, 1], [1]])], r"annotations\[0\]: fixations: expected"),
        (IMAGES, [annotation(0, 1, "text")], r"annotations\[0\]: fixations: expected"),
        (IMAGES, [annotation(0, 1, [])], "expected images with fixations; found 1 image without a fixation"),
    ],
)
def test_annotations_of_another_structure_are_a_user_error(
    images: Any, annotations: Any, message: str, tmp_path: Path
) -> None:
    put_image(tmp_path / "images" / "train2014" / "COCO_train2014_0.jpg")
    twice = images == IMAGES * 2
    path = put_annotations(tmp_path, "train2014", [*IMAGES, {**IMAGES[0], "id": 1}] if twice else images, annotations)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path)
    concerns_folder = message.startswith(("found two records", "expected images"))
    assert str(tmp_path if concerns_folder else path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"null"])
def test_annotations_that_are_not_json_are_a_user_error(content: bytes, tmp_path: Path) -> None:
    write_release_2015(tmp_path)
    (tmp_path / "annotations" / "fixations_val2014.json").write_bytes(content)
    with pytest.raises(UserError, match=r"fixations_val2014\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"gaze": None}, r"a\.mat: expected a field gaze, found image, resolution"),
        ({"resolution": None}, r"a\.mat: expected a field resolution, found gaze, image"),
        ({"resolution": np.array([480])}, r"a\.mat: resolution: expected height and width, found \[480\.0\]"),
        ({"gaze": {"location": 1}}, r"a\.mat: gaze 1: expected a field fixations, found location"),
        ({"gaze": {"fixations": [[1, 2, 3]]}}, r"a\.mat: gaze 1: fixations: expected numbers in 2 columns"),
        ({"gaze": "text"}, r"a\.mat: gaze: expected structs"),
    ],
)
def test_a_gaze_file_of_another_structure_is_a_user_error(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "a.jpg")
    put_mat(tmp_path / "fixations" / "a.mat", [(1, 1)], **more)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_both_releases_in_one_folder_are_a_user_error(tmp_path: Path) -> None:
    write_release_2017(write_release_2015(tmp_path))
    with pytest.raises(UserError, match="expected one release of SALICON, found both"):
        read(tmp_path)


def test_a_release_without_images_is_a_user_error(tmp_path: Path) -> None:
    put_mat(tmp_path / "fixations" / "train" / "a.mat", [(1, 1)])
    with pytest.raises(UserError, match="expected a folder images with the images"):
        read(tmp_path)


def test_real_trajectories_are_read(shared_data: Path) -> None:
    images, excluded, _ = read(shared_data / "salicon-examples")
    assert len(images) == 10
    assert excluded == {REPEATED: 423}
    assert {(image.width, image.height, image.split) for image in images} == {(640, 480, "train")}
    assert sum(len(np.unique(image.subjects)) for image in images) == 610
    assert sum(len(image.fixations) for image in images) == 73_207
    means = np.mean([image.fixations.mean(axis=0) for image in images], axis=0)
    assert means == pytest.approx([0.5, 0.5], abs=0.1)  # people look at the center most
