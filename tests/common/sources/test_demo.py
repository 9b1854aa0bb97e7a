import colorsys
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.sources import demo
from common.sources.scenes import (
    CLASSES,
    HEIGHT,
    HUE_SPREAD,
    LEAST_CONTRAST,
    OUTLINES,
    SIZES,
    WIDTH,
    _contrasting_colors,
    _mask,
    _place,
    render_scene,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "imagenet-attn" / "demo"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scenes a class, for tests that need some but not all of them."""
    monkeypatch.setattr(demo, "SCENES_PER_CLASS", 2)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_photos_are_twelve_pictures_that_decode(cache: Path) -> None:
    folder = demo.demo_folder("photos")
    assert folder == cache / "photos-v2"
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.PHOTOS)
    assert len(set(demo.PHOTOS)) == 12
    for path in folder.iterdir():
        assert min(np.asarray(Image.open(path)).shape[:2]) >= 300


def test_scenes_are_ten_classes_of_sixty_pictures_160_by_120(cache: Path) -> None:
    folder = demo.demo_folder("scenes")
    assert folder == cache / "scenes-v2"
    assert {path.name for path in folder.iterdir()} == set(CLASSES)
    assert len(CLASSES) == 10
    for name in CLASSES:
        paths = sorted((folder / name).iterdir())
        assert [path.name for path in paths] == [f"{name}_{picture:02d}.jpg" for picture in range(60)]
        for path in paths:
            picture = Image.open(path)
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert np.asarray(picture).shape == (120, 160, 3)


@pytest.mark.parametrize("name", ["photos", "scenes"])
def test_a_second_making_gives_the_same_bytes(name: str, cache: Path, few: None) -> None:
    first = content(demo.demo_folder(name))
    (cache / f"{name}-v2").rename(cache / "first")
    assert content(demo.demo_folder(name)) == first


def test_photos_without_scikit_image_are_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        demo.demo_folder("photos")


def test_scenes_differ_from_one_another(few: None) -> None:
    scenes = content(demo.demo_folder("scenes"))
    assert len(set(scenes.values())) == len(scenes) == 20


def test_a_second_call_makes_nothing(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = demo.demo_folder("scenes")
    monkeypatch.setattr(demo, "MAKERS", {"scenes": lambda _: pytest.fail("made again")})
    assert demo.demo_folder("scenes") == folder


def test_an_unknown_name_is_a_user_error() -> None:
    with pytest.raises(UserError, match="expected the demo pictures photos or scenes, found 'films'"):
        demo.demo_folder("films")


def test_a_making_that_fails_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(folder: Path) -> None:
        (folder / "half.jpg").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(demo, "MAKERS", {"scenes": fill_the_disk})
    with pytest.raises(UserError, match=r"no space left.*XDG_CACHE_HOME"):
        demo.demo_folder("scenes")
    assert list(cache.iterdir()) == []


def test_the_folder_of_the_process_that_was_first_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_the_race(folder: Path) -> None:
        (folder / "mine").touch()
        os.mkdir(cache / "scenes-v2")
        (cache / "scenes-v2" / "theirs").touch()

    monkeypatch.setattr(demo, "MAKERS", {"scenes": lose_the_race})
    assert [path.name for path in demo.demo_folder("scenes").iterdir()] == ["theirs"]
    assert [path.name for path in cache.iterdir()] == ["scenes-v2"]


def test_without_xdg_cache_home_the_cache_is_in_the_home_folder(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert demo.demo_folder("scenes") == tmp_path / "home" / ".cache" / "imagenet-attn" / "demo" / "scenes-v2"


def test_a_scene_does_not_depend_on_those_before_it() -> None:
    alone = render_scene(3, 7).tobytes()
    render_scene(3, 6)
    assert render_scene(3, 7).tobytes() == alone


@pytest.mark.parametrize("name", CLASSES)
def test_every_outline_lies_inside_the_frame_and_covers_the_area_of_its_disc(name: str) -> None:
    for seed in range(20):
        random = np.random.RandomState(seed)
        polygon = _place(OUTLINES[name], 16.0, random)
        assert polygon.min() >= 0
        assert np.all(polygon.max(axis=0) <= [160, 120])
        area = _mask(polygon).sum()
        assert 0.8 * np.pi * 16**2 < area < 1.1 * np.pi * 16**2  # a tilt takes up to 15 %; PIL draws the edge whole


def test_object_and_ground_differ_in_color_and_the_object_has_the_hue_of_its_class() -> None:
    for seed in range(100):
        ground, vivid = _contrasting_colors(seed / 100, np.random.RandomState(seed))
        assert np.linalg.norm(ground - vivid) > LEAST_CONTRAST
        hue = colorsys.rgb_to_hsv(*vivid)[0]
        assert min(abs(hue - seed / 100), 1 - abs(hue - seed / 100)) <= HUE_SPREAD + 1e-9


@pytest.mark.parametrize("class_index", range(len(CLASSES)))
def test_the_largest_objects_fit_into_the_frame(class_index: int) -> None:
    for seed in range(50):
        radius = SIZES[1] * HEIGHT / 2
        polygon = _place(OUTLINES[CLASSES[class_index]], radius, np.random.RandomState(seed))
        assert polygon.min() >= 2
        assert np.all(polygon.max(axis=0) <= [WIDTH - 2, HEIGHT - 2])
