"""Demo images that need no download: photographs from scikit-image, and rendered scenes of ten classes."""

import importlib.resources
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.extras import require_extra
from common.sources.scenes import CLASS_NAMES, render_scene
from common.storage.files import cache_folder

PHOTOS = (  # the images of the scikit-image wheel that have something salient in them
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
VERSION = "v2"  # part of the cache folder's name; increase it whenever the images change


def demo_folder(name: str) -> Path:
    """Return the local folder of the demo images `name`; on first use, create it in the user's cache.

    "photos" is a flat folder of 12 photographs; "scenes" has 10 class folders of 60 JPEGs, each 160 x 120 pixels.
    The folder appears only when it is complete, also when several processes ask for it at the same time.
    Raises UserError if the name is unknown, the cache cannot be written, or scikit-image is missing.
    """
    if name not in WRITERS:
        raise UserError(f"expected the demo images {' or '.join(WRITERS)}, found {name!r}; use one of these names")
    folder = cache_folder() / "demo" / f"{name}-{VERSION}"
    if not folder.is_dir():
        try:
            _write_once(folder, WRITERS[name])
        except OSError as error:
            raise UserError(
                f"cannot write the demo images to {folder} ({error}); "
                "set XDG_CACHE_HOME to a writable folder with 10 MB of free space"
            ) from error
    return folder


def _write_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a temporary folder and rename it to `folder`, unless another process has created `folder` meanwhile."""
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        os.rename(unfinished, folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_photos(folder: Path) -> None:
    require_extra("demo", "demo:photos")  # the photographs are part of scikit-image
    source = importlib.resources.files("skimage") / "data"
    for photo in PHOTOS:
        (folder / photo).write_bytes((source / photo).read_bytes())


def _write_scenes(folder: Path) -> None:
    for class_index, name in enumerate(CLASS_NAMES):
        (folder / name).mkdir()
        for image_index in range(SCENES_PER_CLASS):
            scene = render_scene(class_index, image_index)
            scene.save(folder / name / f"{name}_{image_index:02d}.jpg", "JPEG", quality=JPEG_QUALITY)


WRITERS: dict[str, Callable[[Path], None]] = {"photos": _write_photos, "scenes": _write_scenes}
