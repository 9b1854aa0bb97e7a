import hashlib

import numpy as np
import pytest
import torch

from common.errors import UserError
from tests.support.data.pictures import write
from trainer.data.crops import center_crop
from trainer.evaluate.extraction import extract_features
from trainer.evaluate.features import FeatureStore
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.models import open_models

CPU = torch.device("cpu")


class CountingExtractor:
    """Extractor that works in this process and counts the images it reads."""

    def __init__(self, readers=0):
        self.images, self.readers = 0, readers

    def __call__(self, models, sets, size):
        for number, images in enumerate(sets):
            for batch in extract_features([model.network for model in models], images, size, CPU, 5, self.readers):
                self.images += len(batch.indices) + len(batch.failures)
                yield number, batch


@pytest.fixture(scope="module")
def model(checkpoints):
    return open_models(checkpoints[:1], None)[0]


@pytest.mark.parametrize("readers", [0, 2])
def test_features_are_those_of_center_crops(model, val, tmp_path, readers):
    images = FolderImages("--val", str(val), "val")
    features = FeatureStore(str(tmp_path), CountingExtractor(readers), None).get(model, images)
    pixels = torch.stack([center_crop(images.read(index), 32) for index in range(len(images.names))]).float() / 255
    with torch.no_grad():
        assert np.allclose(features.vectors, model.network.features(pixels).numpy(), atol=1e-5)
    assert features.labels.tolist() == images.labels.tolist()
    assert features.unreadable == {}


def test_features_are_extracted_once_per_model_set_and_size(model, checkpoints, val, tmp_path):
    images, extractor = FolderImages("--val", str(val), "val"), CountingExtractor()
    store = FeatureStore(str(tmp_path), extractor, None)
    first = store.get(model, images)
    assert np.array_equal(first.vectors, store.get(model, FolderImages("--val", str(val), "val")).vectors)
    assert extractor.images == 24
    store.get(open_models(checkpoints[1:], None)[0], images)
    assert extractor.images == 48
    FeatureStore(str(tmp_path), extractor, 48).get(model, images)
    assert extractor.images == 72


def test_names_of_feature_files_do_not_change(model, val, tmp_path):
    """Features that an earlier version saved must be found."""
    images = FolderImages("--val", str(val), "val")
    FeatureStore(str(tmp_path), CountingExtractor(), 32).get(model, images)
    names_and_sizes = [f"{name} {(val / name).stat().st_size}" for name in images.names]
    identity = hashlib.sha256("\0".join([str(val.resolve()), *names_and_sizes]).encode()).hexdigest()
    key = hashlib.sha256("\0".join(["1", model.sha256, identity, "32", "False"]).encode()).hexdigest()
    assert [path.name for path in tmp_path.glob("*.npz")] == [f"contrastive-seed-0-val-{key[:16]}.npz"]
    with np.load(tmp_path / f"contrastive-seed-0-val-{key[:16]}.npz") as file:
        assert set(file) == {"features", "labels", "indices", "names", "classes", "unreadable", "reasons", "key"}
        assert str(file["key"]) == key


def test_models_that_lack_the_same_sets_are_extracted_together(checkpoints, val, tmp_path, monkeypatch):
    images, models = FolderImages("--val", str(val), "val"), open_models(checkpoints, None)
    together, separately = CountingExtractor(), CountingExtractor()
    store = FeatureStore(str(tmp_path / "together"), together, None)
    store.prepare(models, [images, images])
    assert together.images == 24
    monkeypatch.setattr("trainer.evaluate.features.MAX_FEATURE_BYTES", 0)
    other_store = FeatureStore(str(tmp_path / "separately"), separately, None)
    other_store.prepare(models, [images])
    assert separately.images == 48
    for model in models:
        assert np.array_equal(store.get(model, images).vectors, other_store.get(model, images).vectors)
    assert not np.allclose(*(store.get(model, images).vectors for model in models))
    assert together.images == 24


def test_unreadable_images_are_named_and_skipped(model, val, tmp_path):
    content = (val / "red" / "000.jpg").read_bytes()
    folder = write(tmp_path / "mixed", {"a/0.jpg": content, "a/1.jpg": content[:300], "b/2.jpg": content})
    store = FeatureStore(str(tmp_path / "features"), CountingExtractor(), None)
    features = store.get(model, FolderImages("--val", str(folder), "val"))
    assert features.labels.tolist() == [0, 1]
    assert features.indices.tolist() == [0, 2]
    assert list(features.unreadable) == ["a/1.jpg"]
    assert features.unreadable["a/1.jpg"].startswith("truncated")
    assert store.unreadable == {"val": features.unreadable}


def test_set_without_readable_images_is_an_error(model, tmp_path):
    folder = write(tmp_path / "broken", {"a/0.jpg": b"", "a/1.jpg": b"x"})
    store = FeatureStore(str(tmp_path / "features"), CountingExtractor(), None)
    with pytest.raises(UserError, match=r"at least one readable image, found 2 unreadable: a/0\.jpg \(empty"):
        store.get(model, FolderImages("", str(folder), "val"))


def test_features_that_are_not_finite_are_refused_and_not_saved(model, val, tmp_path, monkeypatch):
    def diverged(images):
        return torch.full((len(images), 512), float("nan"))

    monkeypatch.setattr(model.network, "features", diverged)
    with pytest.raises(UserError, match=r"best: .* features of val, found NaN or infinity for 24 of 24 images"):
        FeatureStore(str(tmp_path), CountingExtractor(), None).get(model, FolderImages("", str(val), "val"))
    assert not list(tmp_path.glob("*.npz"))


def test_damaged_file_of_features_is_named(model, val, tmp_path):
    store, images = FeatureStore(str(tmp_path), CountingExtractor(), None), FolderImages("", str(val), "val")
    store.get(model, images)
    [path] = tmp_path.glob("*.npz")
    path.write_bytes(b"no arrays")
    with pytest.raises(UserError, match=r"\.npz: expected the features that an evaluation saved, .* remove it"):
        store.get(model, images)
