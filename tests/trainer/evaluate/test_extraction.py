import os
import resource
import time

import numpy as np
import pytest
import torch

from common.errors import UserError
from trainer.evaluate.extraction import extract_features
from trainer.evaluate.images.image_sets import FolderImages, ImageSubset
from trainer.evaluate.models import open_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(checkpoints):
    return open_models(checkpoints[:1], None)[0]


@pytest.fixture
def few_file_descriptors():
    """Allow this process only 40 more open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(len(open_files) + 41) if number not in open_files]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[40], hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_images_that_wait_for_a_slow_one_need_few_file_descriptors(model, val, monkeypatch, few_file_descriptors):
    images = FolderImages("", str(val), "val")
    read, this_process = images.read, os.getpid()

    def read_slowly(index):
        time.sleep(2 if index == 0 and os.getpid() != this_process else 0)
        return read(index)

    monkeypatch.setattr(images, "read", read_slowly)
    many = ImageSubset(images, np.arange(1, 193) % 24)  # the first batch has no slow image
    batches = list(extract_features([model.network], many, 32, CPU, 24, 2))
    assert sum(len(batch.indices) for batch in batches) == 192


@pytest.mark.parametrize("readers", [0, 2])
def test_error_of_the_storage_is_one_sentence_also_from_readers(model, val, readers, monkeypatch):
    images = FolderImages("", str(val), "val")

    def expired(index):
        raise UserError("s3://bucket/x: the credentials have expired")

    monkeypatch.setattr(images, "read", expired)
    with pytest.raises(UserError, match=r"^s3://bucket/x: the credentials have expired$"):
        list(extract_features([model.network], images, 32, CPU, 4, readers))


def test_reader_that_dies_is_reported_in_one_sentence(model, val, monkeypatch):
    images = FolderImages("", str(val), "val")
    this_process, read = os.getpid(), images.read
    monkeypatch.setattr(images, "read", lambda index: read(index) if os.getpid() == this_process else os._exit(9))
    with pytest.raises(UserError, match=r"a process that reads images died: .* fewer --readers"):
        list(extract_features([model.network], images, 32, CPU, 4, 2))
