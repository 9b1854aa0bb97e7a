"""Photographs, and the data set that is made of them where nothing happens."""

from pathlib import Path

import pytest

from tests.support.jobs import IMAGES, label, photographs, run


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("images"), IMAGES, classes=3)


@pytest.fixture(scope="session")
def clean(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that an undisturbed run of one worker, without a cluster, makes. Nobody may change it."""
    output = tmp_path_factory.mktemp("clean") / "out"
    done = run(label(images, output, workers=1))
    assert done.returncode == 0, done.stderr
    return output
