"""Pictures to try everything with, without a download: real photographs, and rendered scenes of ten classes."""

import importlib.resources
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.sources.scenes import CLASSES, render_scene
from common.storage.files import cache_folder

PHOTOS = (  # of those inside the scikit-image wheel, the ones that show something to look at
    "astronaut.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
SCENES_PER_CLASS = 60
JPEG_QUALITY = 92
VERSION = "v2"  # of the pictures: another one is made anew


def demo_folder(name: str) -> Path:
    """The local folder of the demo pictures `name`, made on first use in the user's cache.

    "photos" is a flat folder of twelve photographs; "scenes" has ten class folders of 60 JPEGs, 160 wide, 120 high.
    The folder is there completely or not at all, also when several processes ask at once.
    Raises UserError for another name, where the cache cannot be written and where scikit-image is missing.
    """
    if name not in MAKERS:
        raise UserError(f"expected the demo pictures {' or '.join(MAKERS)}, found {name!r}; use one of these names")
    folder = cache_folder() / "demo" / f"{name}-{VERSION}"
    if not folder.is_dir():
        try:
            _make_once(folder, MAKERS[name])
        except OSError as error:
            raise UserError(
                f"cannot make the demo pictures in {folder} ({error}); "
                "set XDG_CACHE_HOME to a folder that can be written and has 10 MB free"
            ) from error
    return folder


def _make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make the folder under another name, then rename it; where another process was first, keep its folder."""
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        make(unfinished)
        os.rename(unfinished, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy_photos(folder: Path) -> None:
    try:
        source = importlib.resources.files("skimage") / "data"
    except ImportError as error:
        raise UserError("the demo photographs are part of scikit-image; run pip install scikit-image") from error
    for photo in PHOTOS:
        (folder / photo).write_bytes((source / photo).read_bytes())


def _render_scenes(folder: Path) -> None:
    for class_index, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for picture in range(SCENES_PER_CLASS):
            scene = render_scene(class_index, picture)
            scene.save(folder / name / f"{name}_{picture:02d}.jpg", "JPEG", quality=JPEG_QUALITY)


MAKERS: dict[str, Callable[[Path], None]] = {"photos": _copy_photos, "scenes": _render_scenes}
