"""Photographs, and the data set that an undisturbed run makes of them."""

from pathlib import Path

import pytest

from tests.support.jobs import IMAGES, label_command, photographs, run
from tests.support.labeled import make_dataset


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("images"), IMAGES, classes=3)


@pytest.fixture(scope="session")
def clean(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of an undisturbed run with one worker and without a cluster. Tests must not change it."""
    output = tmp_path_factory.mktemp("clean") / "out"
    done = run(label_command(images, output, workers=1))
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="session")
def labeled(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three classes in three shards, labeled in this process. Tests must not change it.

    Some samples have more than 20 gaze points, others 20 or fewer.
    """
    output = tmp_path_factory.mktemp("labeled") / "out"
    return make_dataset(images, output, samples_per_shard=20, gaze_threshold=0.6, max_gaze_points=200)
