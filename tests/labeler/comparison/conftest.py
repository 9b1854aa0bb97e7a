"""Two labelings that share some of their images."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from common.storage import LocalStorage
from labeler.publishing.publish import publish
from labeler.teacher.weights import CustomTeacher
from tests.support.data.pictures import rotated_jpeg
from tests.support.jobs import photographs, planned, shard_labeler
from tests.support.labeled import make_dataset
from tests.support.simple_teachers import Brightness

ONLY_A, ONLY_B = ["class0/photo000.jpg", "class1/photo004.jpg"], ["class2/new.jpg"]


class Pair(NamedTuple):
    """Two data sets of the same images."""

    a: Path
    b: Path


def label_brightness(images: Path, output: Path) -> Path:
    """Label images by their brightness, without storing them, in an order of its own, with maps of 32 pixels."""
    config = {"map_size": 32, "samples_per_shard": 4, "seed": 5, "include_images": False, "gaze_threshold": 0.9}
    plan = planned(images, output, **config)
    labeler = shard_labeler(plan, output, CustomTeacher(Brightness()))
    for shard in plan.shard_indices:
        labeler.label(shard)
    assert publish(LocalStorage(output), [plan], 0)[1]
    return output


@pytest.fixture(scope="session")
def labelings(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Make two labelings: by another teacher, with other shards, order and map size, and B without images.

    Each has images that the other one lacks, and one image twice, under paths of which only one is in both. Another
    image has another path in B.
    """
    folder = tmp_path_factory.mktemp("labelings")
    images = photographs(folder / "images", 14, classes=3)
    (images / "class2/turned.jpg").write_bytes(rotated_jpeg(6, seed=54))
    (images / "class1/again.jpg").write_bytes((images / "class0/photo003.jpg").read_bytes())
    a = make_dataset(images, folder / "a", samples_per_shard=6)
    others = shutil.copytree(images, folder / "others")
    for name in ONLY_A:
        (others / name).unlink()
    (others / "class2/new.jpg").write_bytes(rotated_jpeg(1, seed=60))
    (others / "class1/again.jpg").rename(others / "class2/again.jpg")
    (others / "class2/photo005.jpg").rename(others / "class2/renamed.jpg")
    return Pair(a, label_brightness(others, folder / "b"))


@pytest.fixture
def copies(labelings: Pair, tmp_path: Path) -> Pair:
    """Copies of the two labelings, to be changed by a test."""
    return Pair(shutil.copytree(labelings.a, tmp_path / "a"), shutil.copytree(labelings.b, tmp_path / "b"))
