"""The data set that tests of the index and of the statistics share."""

from pathlib import Path

import pytest

from tests.support.data.pictures import encoded, jpeg, photograph, rotated_jpeg
from tests.support.jobs import photographs
from tests.support.labeled import make_dataset


@pytest.fixture(scope="session")
def varied_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data set of four classes, one without samples; some images are rotated, re-encoded, failed or repeated."""
    folder = tmp_path_factory.mktemp("stats")
    images = photographs(folder / "images", 24, classes=3)
    (images / "class0/wide.jpg").write_bytes(jpeg(300, 40, seed=50))
    (images / "class0/png.JPEG").write_bytes(encoded(photograph(seed=51), "PNG"))
    (images / "class1/webp.jpg").write_bytes(encoded(photograph(seed=52), "WEBP"))
    (images / "class1/webp_too.jpg").write_bytes(encoded(photograph(seed=53), "WEBP"))
    (images / "class2/turned.jpg").write_bytes(rotated_jpeg(6, seed=54))
    (images / "class2/mirrored.jpg").write_bytes(rotated_jpeg(2, seed=55))
    (images / "class2/upright.jpg").write_bytes(rotated_jpeg(1, seed=56))
    (images / "class1/text.jpg").write_bytes(b"no image")
    (images / "class3").mkdir()
    (images / "class3/empty.jpg").write_bytes(b"")
    (images / "class3/empty_too.jpg").write_bytes(b"")
    for index in range(3):
        (images / f"class0/again{index}.jpg").write_bytes((images / "class0/photo000.jpg").read_bytes())
    (images / "class2/elsewhere.jpg").write_bytes((images / "class1/photo001.jpg").read_bytes())
    return make_dataset(images, folder / "out", samples_per_shard=10)
