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
    CLASS_NAMES,
    DIAMETER_RANGE,
    HEIGHT,
    HUE_SPREAD,
    MIN_CONTRAST,
    OUTLINES,
    WIDTH,
    _contrasting_colors,
    _rasterize,
    _transform_outline,
    render_scene,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "imagenet-attn" / "demo"


@pytest.fixture
def two_scenes_per_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the number of scenes for tests that do not need all of them."""
    monkeypatch.setattr(demo, "SCENES_PER_CLASS", 2)


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_photos_are_twelve_decodable_images(cache: Path) -> None:
    folder = demo.demo_folder("photos")
    assert folder == cache / "photos-v2"
    assert sorted(path.name for path in folder.iterdir()) == sorted(demo.PHOTOS)
    assert len(set(demo.PHOTOS)) == 12
    for path in folder.iterdir():
        assert min(np.asarray(Image.open(path)).shape[:2]) >= 300


def test_scenes_are_ten_classes_of_sixty_images_of_160_by_120(cache: Path) -> None:
    folder = demo.demo_folder("scenes")
    assert folder == cache / "scenes-v2"
    assert {path.name for path in folder.iterdir()} == set(CLASS_NAMES)
    assert len(CLASS_NAMES) == 10
    for name in CLASS_NAMES:
        paths = sorted((folder / name).iterdir())
        assert [path.name for path in paths] == [f"{name}_{index:02d}.jpg" for index in range(60)]
        for path in paths:
            image = Image.open(path)
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert np.asarray(image).shape == (120, 160, 3)


@pytest.mark.parametrize("name", ["photos", "scenes"])
def test_images_are_written_with_the_same_bytes_every_time(name: str, cache: Path, two_scenes_per_class: None) -> None:
    first = read_files(demo.demo_folder(name))
    (cache / f"{name}-v2").rename(cache / "first")
    assert read_files(demo.demo_folder(name)) == first


def test_photos_without_scikit_image_are_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match=r"demo:photos needs the package skimage .*\[demo\]"):
        demo.demo_folder("photos")


def test_all_scenes_are_different(two_scenes_per_class: None) -> None:
    scenes = read_files(demo.demo_folder("scenes"))
    assert len(set(scenes.values())) == len(scenes) == 20


def test_an_existing_folder_is_not_written_again(two_scenes_per_class: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = demo.demo_folder("scenes")
    monkeypatch.setattr(demo, "WRITERS", {"scenes": lambda _: pytest.fail("written again")})
    assert demo.demo_folder("scenes") == folder


def test_an_unknown_name_is_a_user_error() -> None:
    with pytest.raises(UserError, match="expected the demo images photos or scenes, found 'films'"):
        demo.demo_folder("films")


def test_a_failed_write_leaves_no_files(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_the_disk(folder: Path) -> None:
        (folder / "half.jpg").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(demo, "WRITERS", {"scenes": fill_the_disk})
    with pytest.raises(UserError, match=r"no space left.*XDG_CACHE_HOME"):
        demo.demo_folder("scenes")
    assert list(cache.iterdir()) == []


def test_a_folder_that_another_process_created_first_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_the_race(folder: Path) -> None:
        (folder / "mine").touch()
        os.mkdir(cache / "scenes-v2")
        (cache / "scenes-v2" / "theirs").touch()

    monkeypatch.setattr(demo, "WRITERS", {"scenes": lose_the_race})
    assert [path.name for path in demo.demo_folder("scenes").iterdir()] == ["theirs"]
    assert [path.name for path in cache.iterdir()] == ["scenes-v2"]


def test_without_xdg_cache_home_the_cache_is_in_the_home_folder(
    tmp_path: Path, two_scenes_per_class: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert demo.demo_folder("scenes") == tmp_path / "home" / ".cache" / "imagenet-attn" / "demo" / "scenes-v2"


# the mean colors of the first scene of each class
MEAN_COLORS = {
    "arrow": (183.1, 126.4, 188.4),
    "ball": (63.3, 53.8, 73.6),
    "box": (99.8, 73.4, 51.0),
    "crescent": (131.2, 124.0, 145.8),
    "cross": (161.7, 144.3, 157.4),
    "flower": (48.9, 74.2, 48.1),
    "heart": (158.5, 97.0, 173.0),
    "ring": (110.5, 84.6, 114.4),
    "star": (133.5, 93.2, 101.5),
    "triangle": (55.3, 60.5, 49.9),
}


def test_scenes_have_the_colors_that_they_have_on_every_machine() -> None:
    """A change of the scenes needs another `demo.VERSION`, because users have the earlier ones in their caches."""
    assert demo.VERSION == "v2"
    colors = {name: np.asarray(render_scene(index, 0)).mean((0, 1)).tolist() for index, name in enumerate(CLASS_NAMES)}
    assert colors == {name: pytest.approx(color, abs=0.3) for name, color in MEAN_COLORS.items()}


def test_a_scene_does_not_depend_on_previously_rendered_scenes() -> None:
    alone = render_scene(3, 7).tobytes()
    render_scene(3, 6)
    assert render_scene(3, 7).tobytes() == alone


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_every_outline_lies_inside_the_frame_and_has_the_area_of_the_disc(name: str) -> None:
    for seed in range(20):
        polygon = _transform_outline(OUTLINES[name], 16.0, np.random.RandomState(seed))
        assert polygon.min() >= 0
        assert np.all(polygon.max(axis=0) <= [160, 120])
        area = _rasterize(polygon).sum()
        assert (
            0.8 * np.pi * 16**2 < area < 1.1 * np.pi * 16**2
        )  # tilting removes up to 15 %; PIL fills edge pixels completely


def test_object_contrasts_with_the_background_and_has_the_hue_of_its_class() -> None:
    for seed in range(100):
        muted, vivid = _contrasting_colors(seed / 100, np.random.RandomState(seed))
        assert np.linalg.norm(muted - vivid) > MIN_CONTRAST
        hue = colorsys.rgb_to_hsv(*vivid)[0]
        assert min(abs(hue - seed / 100), 1 - abs(hue - seed / 100)) <= HUE_SPREAD + 1e-9


@pytest.mark.parametrize("class_index", range(len(CLASS_NAMES)))
def test_the_largest_objects_fit_into_the_frame(class_index: int) -> None:
    for seed in range(50):
        radius = DIAMETER_RANGE[1] * HEIGHT / 2
        polygon = _transform_outline(OUTLINES[CLASS_NAMES[class_index]], radius, np.random.RandomState(seed))
        assert polygon.min() >= 2
        assert np.all(polygon.max(axis=0) <= [WIDTH - 2, HEIGHT - 2])
