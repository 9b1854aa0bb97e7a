import os

import numpy as np
import pytest
import torch

from common.errors import UserError
from tests.support.pictures import write
from trainer.data.crops import center_crop
from trainer.evaluate.features import FeatureStore, extract_here
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.models import open_models

CPU = torch.device("cpu")


class Counting:
    """Extracts in this process, and counts what passes."""

    def __init__(self, readers=0):
        self.images, self.readers = 0, readers

    def __call__(self, models, sets, size):
        for number, each in enumerate(sets):
            for piece in extract_here([model.network for model in models], each, size, CPU, 5, self.readers):
                self.images += len(piece.indices) + len(piece.failed)
                yield number, piece


@pytest.fixture(scope="module")
def model(checkpoints):
    return open_models(checkpoints[:1], None)[0]


@pytest.mark.parametrize("readers", [0, 2])
def test_features_are_the_models_of_the_images_centres(model, val, tmp_path, readers):
    pictures = FolderImages("--val", str(val), "val")
    found = FeatureStore(str(tmp_path), Counting(readers), None).get(model, pictures)
    images = torch.stack([center_crop(pictures.read(index), 32) for index in range(len(pictures.names))]).float() / 255
    with torch.no_grad():
        assert np.allclose(found.rows, model.network.features(images).numpy(), atol=1e-5)
    assert found.labels.tolist() == pictures.labels.tolist()
    assert found.unreadable == {}


def test_features_are_extracted_once_for_a_model_a_set_and_a_size(model, checkpoints, val, tmp_path):
    pictures, count = FolderImages("--val", str(val), "val"), Counting()
    store = FeatureStore(str(tmp_path), count, None)
    first = store.get(model, pictures)
    assert np.array_equal(first.rows, store.get(model, FolderImages("--val", str(val), "val")).rows)
    assert count.images == 24
    store.get(open_models(checkpoints[1:], None)[0], pictures)
    assert count.images == 48
    FeatureStore(str(tmp_path), count, 48).get(model, pictures)
    assert count.images == 72


def test_models_that_lack_the_same_see_each_image_together(checkpoints, val, tmp_path, monkeypatch):
    pictures, models = FolderImages("--val", str(val), "val"), open_models(checkpoints, None)
    apart, together = Counting(), Counting()
    store = FeatureStore(str(tmp_path / "together"), together, None)
    store.prepare(models, [pictures, pictures])
    assert together.images == 24
    monkeypatch.setattr("trainer.evaluate.features.MEMORY", 0)
    one_by_one = FeatureStore(str(tmp_path / "apart"), apart, None)
    one_by_one.prepare(models, [pictures])
    assert apart.images == 48
    for model in models:
        assert np.array_equal(store.get(model, pictures).rows, one_by_one.get(model, pictures).rows)
    assert not np.allclose(*(store.get(model, pictures).rows for model in models))
    assert together.images == 24


def test_unreadable_images_are_named_and_left_out(model, val, tmp_path):
    content = (val / "red" / "000.jpg").read_bytes()
    folder = write(tmp_path / "mixed", {"a/0.jpg": content, "a/1.jpg": content[:300], "b/2.jpg": content})
    store = FeatureStore(str(tmp_path / "kept"), Counting(), None)
    found = store.get(model, FolderImages("--val", str(folder), "val"))
    assert found.labels.tolist() == [0, 1]
    assert found.indices.tolist() == [0, 2]
    assert list(found.unreadable) == ["a/1.jpg"]
    assert found.unreadable["a/1.jpg"].startswith("truncated")
    assert store.unreadable == {"val": found.unreadable}


def test_a_set_that_cannot_be_read_at_all_is_an_error(model, tmp_path):
    folder = write(tmp_path / "broken", {"a/0.jpg": b"", "a/1.jpg": b"x"})
    with pytest.raises(UserError, match=r"none of the 2 images can be read: a/0\.jpg \(empty"):
        FeatureStore(str(tmp_path / "kept"), Counting(), None).get(model, FolderImages("", str(folder), "val"))


def test_features_that_are_no_numbers_are_refused_and_not_kept(model, val, tmp_path, monkeypatch):
    def diverged(images):
        return torch.full((len(images), 512), float("nan"))

    monkeypatch.setattr(model.network, "features", diverged)
    with pytest.raises(UserError, match=r"best: .* features of val, found NaN or infinity for 24 of 24 images"):
        FeatureStore(str(tmp_path), Counting(), None).get(model, FolderImages("", str(val), "val"))
    assert not list(tmp_path.glob("*.npz"))


def test_a_damaged_file_of_features_is_named(model, val, tmp_path):
    store, pictures = FeatureStore(str(tmp_path), Counting(), None), FolderImages("", str(val), "val")
    store.get(model, pictures)
    [kept] = tmp_path.glob("*.npz")
    kept.write_bytes(b"no arrays")
    with pytest.raises(UserError, match=r"\.npz: not the features that were kept .* remove it"):
        store.get(model, pictures)


@pytest.mark.parametrize("readers", [0, 2])
def test_a_store_that_fails_is_one_sentence_from_readers_too(model, val, readers, monkeypatch):
    pictures = FolderImages("", str(val), "val")

    def expired(index):
        raise UserError("s3://bucket/x: the credentials have expired")

    monkeypatch.setattr(pictures, "read", expired)
    with pytest.raises(UserError, match=r"^s3://bucket/x: the credentials have expired$"):
        list(extract_here([model.network], pictures, 32, CPU, 4, readers))


def test_a_reading_process_that_dies_is_one_sentence(model, val, monkeypatch):
    pictures = FolderImages("", str(val), "val")
    here, read = os.getpid(), pictures.read
    monkeypatch.setattr(pictures, "read", lambda index: read(index) if os.getpid() == here else os._exit(9))
    with pytest.raises(UserError, match=r"a process that reads images died: .* fewer --readers"):
        list(extract_here([model.network], pictures, 32, CPU, 4, 2))


@pytest.mark.slow
def test_many_processes_extract_what_one_does(model, val, tmp_path, monkeypatch):
    from trainer.evaluate import distribute

    monkeypatch.setattr(distribute, "CHUNK", 7)
    pictures = FolderImages("", str(val), "val")

    def on_ray(models, sets, size):
        return distribute.extract_on_ray(models, sets, size, 5, 0, workers=2)

    many, one = (FeatureStore(str(tmp_path / name), how, None) for name, how in (("a", on_ray), ("b", Counting())))
    found, expected = many.get(model, pictures), one.get(model, pictures)
    assert np.allclose(found.rows, expected.rows, atol=1e-5)
    assert found.indices.tolist() == expected.indices.tolist()
