import pickle

import numpy as np
import pytest
import torch

from common.errors import UserError
from trainer.evaluate import distribute
from trainer.evaluate.extraction import extract_features
from trainer.evaluate.features import FeatureStore
from trainer.evaluate.images.image_sets import FolderImages
from trainer.evaluate.models import open_models


@pytest.fixture
def model(checkpoints):
    return open_models(checkpoints[:1], None)[0]


@pytest.fixture
def images(val):
    return FolderImages("", str(val), "val")


@pytest.fixture
def worker(model, images, monkeypatch):
    """Return a worker in this process, whose reference is the object itself."""
    monkeypatch.setattr("ray.get", lambda reference: reference)
    return distribute.ExtractionWorker([([model.network], [images])], 32, batch_size=5, readers=0, workers=2)


def test_worker_extracts_the_images_of_its_task(worker, model, images):
    result = worker({"number": 0, "start": 7, "end": 14})
    batches = pickle.loads(result["batches"])
    assert (result["number"], result["error"]) == (0, "")
    assert np.concatenate([batch.indices for batch in batches]).tolist() == list(range(7, 14))
    [whole] = extract_features([model.network], images, 32, torch.device("cpu"), 24, 0)
    vectors = np.concatenate([batch.vectors[0] for batch in batches])
    assert np.allclose(vectors, whole.vectors[0][7:14], atol=1e-5)


def test_worker_returns_errors_that_the_user_can_fix(worker, images, monkeypatch):
    def expired(index):
        raise UserError("s3://bucket/x: the credentials have expired")

    monkeypatch.setattr(images, "read", expired)
    assert worker({"number": 0, "start": 0, "end": 7}) == {
        "number": 0,
        "batches": b"",
        "error": "s3://bucket/x: the credentials have expired",
    }


@pytest.mark.slow
def test_ray_workers_extract_what_one_process_does(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr(distribute, "IMAGES_PER_TASK", 7)

    def extract_with_ray(models, sets, size):
        return distribute.extract_with_ray(models, sets, size, 5, 0, workers=2)

    def extract_in_this_process(models, sets, size):
        for batch in extract_features([model.network for model in models], sets[0], size, torch.device("cpu"), 5, 0):
            yield 0, batch

    features, expected = (
        FeatureStore(str(tmp_path / extract.__name__), extract, None).get(model, images)
        for extract in (extract_with_ray, extract_in_this_process)
    )
    assert np.allclose(features.vectors, expected.vectors, atol=1e-5)
    assert features.indices.tolist() == expected.indices.tolist()
