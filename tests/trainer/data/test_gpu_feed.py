"""Tests on a GPU (TEST_GPU=1): batches that it decodes and crops, and samples in its memory, against the host's."""

from pathlib import Path

import pytest
import torch

from common.images.gpu_decoder import CHECK_PHOTOGRAPHS
from common.launch import Rank
from common.parallel import Decoders
from tests.support.data.datasets import disc_sample, write_dataset
from tests.support.training import make_settings, make_stream
from trainer.data.augment import draw_augmentation
from trainer.data.dataset import Dataset, open_dataset
from trainer.data.decoding import Batch, ViewSpec
from trainer.data.device_feed import DeviceFeed, make_feed
from trainer.data.sampler import Sampler
from trainer.data.shard_reader import ShardReader
from trainer.data.source import open_source

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and TEST_GPU=1")

DEVICE = torch.device("cuda")
RANK = Rank(0, 1, DEVICE)
PROCESSES = Decoders(2, True)
SIZE, STEPS = 96, 6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Samples whose JPEGs every decoder decodes to the same pixels."""
    jpegs = [path.read_bytes() for path in sorted(CHECK_PHOTOGRAPHS.glob("*.jpg"))]
    samples = [disc_sample(number, 4)._replace(jpeg=jpegs[number % len(jpegs)]) for number in range(80)]
    return open_dataset(str(write_dataset(tmp_path_factory.mktemp("data"), [samples[:50], samples[50:]], 4)))


def make_spec(data: Dataset) -> ViewSpec:
    return ViewSpec(SIZE, (draw_augmentation, draw_augmentation), data.classes)


def assert_within_2(found: list[Batch], expected: list[Batch]) -> None:
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys == other.keys
        assert batch.views.is_cuda
        for images, same in ((batch.views, other.views), (batch.clean, other.clean)):
            assert (images.cpu().int() - same.int()).abs().max() <= 2
        assert torch.equal(batch.attention.cpu(), other.attention)


def host_batches(data: Dataset) -> list[Batch]:
    return list(make_stream(data, Sampler(data.sizes, 40, 0), make_spec(data)).batches(0, STEPS))


def test_crops_are_within_2_of_255_of_the_hosts(data: Dataset) -> None:
    feed = make_feed(make_spec(data), DEVICE, decoded=False)
    assert isinstance(feed, DeviceFeed)
    stream = make_stream(data, Sampler(data.sizes, 40, 0), make_spec(data), decoders=PROCESSES, feed=feed)
    assert_within_2(list(stream.batches(0, STEPS)), host_batches(data))


def test_samples_in_the_memory_of_the_gpu_give_the_same_crops(data: Dataset, tmp_path: Path) -> None:
    settings = make_settings(Path(data.location), tmp_path / "run", cache="memory")
    source = open_source(settings, data, RANK, "test", 2)
    [sample, *_] = source.read_shard(0)
    assert sample.pixels.is_cuda
    feed = make_feed(make_spec(data), DEVICE, decoded=True)
    sampler = Sampler(data.sizes, 40, 0)
    stream = make_stream(data, sampler, make_spec(data), decoders=PROCESSES, read_shard=source.read_shard, feed=feed)
    assert_within_2(list(stream.batches(0, STEPS)), host_batches(data))


def test_batches_are_right_while_the_gpu_is_busy_and_reuses_memory(data: Dataset) -> None:
    """The hardware decoder ignores its stream; a decoder that does not wait for it reads and writes others' memory."""
    expected = host_batches(data)
    feed = make_feed(make_spec(data), DEVICE, decoded=False)
    stream = make_stream(
        data, Sampler(data.sizes, 40, 0), make_spec(data), read_shard=ShardReader(data).read, feed=feed
    )
    for _ in range(10):
        found = []
        for batch in stream.batches(0, STEPS):
            work = torch.randn(3000, 3000, device=DEVICE)
            for _ in range(20):
                work = work @ work
            found.append(batch._replace(views=batch.views.clone(), clean=batch.clean.clone()))
        assert_within_2(found, expected)
