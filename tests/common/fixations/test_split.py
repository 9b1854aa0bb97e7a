import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.fixations import FixatedImage, open_fixations, split_images
from common.fixations.split import group_duplicates
from tests.support.data.pictures import encoded, photograph

COUNT = 12


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[FixatedImage]:
    """Twelve images, of which 3 is a smaller copy of 0, and 7 and 9 are byte-identical to 5."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        path = folder / f"{number:02}.jpg"
        if number == 3:
            path.write_bytes(encoded(photograph(96, 64, seed=0).resize((48, 32)), "JPEG", quality=80))
        else:
            path.write_bytes(encoded(photograph(96, 64, seed=5 if number in (7, 9) else number), "JPEG", quality=95))
    fixations = np.array([[0.5, 0.5]], np.float32)
    paths = sorted(folder.iterdir())
    return [FixatedImage(path.name, path, 96, 64, fixations, np.zeros(1, np.int32)) for path in paths]


def names(images: list[FixatedImage]) -> list[str]:
    return [image.name for image in images]


@given(st.data())
def test_a_split_depends_on_names_and_seed_only(images: list[FixatedImage], data: st.DataObject) -> None:
    order = data.draw(st.permutations(images))
    seed = data.draw(st.integers(0, 5))
    assert [names(side) for side in split_images(order, 4, seed)] == [
        names(side) for side in split_images(images, 4, seed)
    ]


def test_different_seeds_give_different_splits(images: list[FixatedImage]) -> None:
    assert len({tuple(names(split_images(images, 4, seed)[1])) for seed in range(10)}) > 5


def test_a_split_is_the_same_in_another_process(images: list[FixatedImage]) -> None:
    program = (
        "import sys, numpy, pathlib; from common.fixations import FixatedImage, split_images\n"
        "fixations = numpy.zeros((1, 2)), numpy.zeros(1)\n"
        "paths = map(pathlib.Path, sys.argv[1:])\n"
        "print(*[i.name for i in split_images([FixatedImage(p.name, p, 96, 64, *fixations) for p in paths], 4, 3)[1]])"
    )
    arguments = [sys.executable, "-c", program, *(str(image.path) for image in images)]
    process = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert process.stdout.split() == names(split_images(images, 4, 3)[1])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("validation", "expected"), [(4, 4), (1, 1), (11, 11), (0.25, 3), (0.5, 6), (0.9, 11)])
def test_validation_size_is_a_number_or_a_fraction(
    validation: float, expected: int, seed: int, images: list[FixatedImage]
) -> None:
    train, held_out = split_images(images, validation, seed)
    assert sorted(names(train) + names(held_out)) == names(images)
    assert expected - 2 <= len(held_out) <= expected
    assert len(held_out) == expected or expected > 7  # seven images have no duplicate


@pytest.mark.parametrize("seed", range(20))
def test_duplicates_of_an_image_stay_on_one_side(seed: int, images: list[FixatedImage]) -> None:
    for side in split_images(images, 0.5, seed):
        assert len({"00.jpg", "03.jpg"} & set(names(side))) in (0, 2)
        assert len({"05.jpg", "07.jpg", "09.jpg"} & set(names(side))) in (0, 3)


def test_duplicates_are_found_by_pixels_and_by_name(images: list[FixatedImage]) -> None:
    renamed = replace(images[1], name="02.jpg")
    groups = [names(group) for group in group_duplicates([*images, renamed]) if len(group) > 1]
    assert groups == [["00.jpg", "03.jpg"], ["01.jpg", "02.jpg", "02.jpg"], ["05.jpg", "07.jpg", "09.jpg"]]


def test_most_images_stay_on_their_side_when_the_data_set_grows(images: list[FixatedImage]) -> None:
    kept = []  # fractions of the validation images that stay in validation; by chance, half of them would
    for seed in range(20):
        before, after = (set(names(split_images(part, 0.5, seed)[1])) for part in (images[:10], images))
        kept.append(len(before & after) / len(before))
    assert np.mean(kept) >= 0.8


@pytest.mark.parametrize("validation", [0, 12, 13, -1, 0.0, 1.0, 1.5, -0.2, 0.01, float("nan")])
def test_an_empty_side_is_a_user_error(validation: float, images: list[FixatedImage]) -> None:
    with pytest.raises(UserError, match=r"validation = .*12 images"):
        split_images(images, validation, 0)


def test_splitting_no_images_is_a_user_error() -> None:
    with pytest.raises(UserError, match="the 0 images"):
        split_images([], 0.2, 0)


def test_an_unreadable_image_is_a_user_error_that_names_it(images: list[FixatedImage], tmp_path: Path) -> None:
    (tmp_path / "truncated.jpg").write_bytes(images[0].path.read_bytes()[:700])
    for path in (tmp_path / "truncated.jpg", tmp_path / "absent.jpg"):
        with pytest.raises(UserError, match=rf"{path.name}: the image cannot be read"):
            split_images([*images, replace(images[0], path=path, name=path.name)], 4, 0)


def test_osie_contains_only_the_one_known_pair_of_duplicates(shared_data: Path) -> None:
    images = open_fixations(f"osie-eye:{shared_data / 'osie'}").images
    assert [names(group) for group in group_duplicates(images) if len(group) > 1] == [["1279.jpg", "1374.jpg"]]
    assert images[278].path.read_bytes() != images[373].path.read_bytes()
    for seed in range(3):
        train, held_out = split_images(images, 0.2, seed)
        assert (len(train), len(held_out)) == (400, 100)
