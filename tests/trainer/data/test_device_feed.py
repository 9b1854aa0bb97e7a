"""Tests of batches that are decoded and cropped on the device, here a CPU, against those of the host."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from common.errors import UserError
from common.images import decode_jpeg
from common.parallel import Decoders
from tests.support.data.datasets import disc_sample, make_dataset, overwrite_member, write_dataset
from tests.support.data.pictures import encoded, photograph
from tests.support.training import CPU, make_stream
from trainer.data.augment import draw_augmentation
from trainer.data.dataset import open_dataset
from trainer.data.decoding import Batch, ViewSpec
from trainer.data.device_feed import DeviceFeed, make_feed
from trainer.data.feed import HostFeed
from trainer.data.sampler import Sampler

SIZES = [7, 5, 9, 6]
VIEWS = (draw_augmentation, draw_augmentation)


class Decoder:
    """A decoder that fails for a whole batch if one JPEG is damaged, as nvJPEG does."""

    def __init__(self) -> None:
        self.jpegs: list[bytes] = []

    def __call__(self, jpegs: Sequence[bytes]) -> list[Tensor]:
        self.jpegs += jpegs
        return [decode_jpeg(jpeg) for jpeg in jpegs]


def read_batches(folder: Path, on_device: bool, decoder: Decoder | None = None, **options: Any) -> list[Batch]:
    data = open_dataset(str(folder))
    spec = ViewSpec(32, VIEWS, data.classes)
    feed = DeviceFeed(spec, CPU, decoder or Decoder()) if on_device else HostFeed(spec)
    return list(make_stream(data, Sampler(data.sizes, 6, 0), spec, feed=feed, **options).batches(0, 4))


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    for batch, other in zip(found, expected, strict=True):
        assert batch.keys == other.keys
        assert batch.skipped == other.skipped
        for name in ("augmentation", "attention", "labels"):
            assert torch.equal(getattr(batch, name), getattr(other, name))
        assert all((points == same).all() for points, same in zip(batch.gaze, other.gaze, strict=True))
        for images, same in ((batch.views, other.views), (batch.clean, other.clean)):
            assert (images.int() - same.int()).abs().max() <= 2
            assert images.stride() == same.stride()


@pytest.mark.parametrize("processes", [False, True])
def test_batches_are_those_of_the_host(processes: bool, tmp_path: Path) -> None:
    folder = make_dataset(tmp_path, SIZES)
    decoders = Decoders(2, processes)
    assert_same(read_batches(folder, True, decoders=decoders), read_batches(folder, False, decoders=decoders))


def test_damaged_jpegs_are_reported_or_replaced_as_on_the_host(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path, SIZES)
    for key in ("000000008", "000000009"):
        overwrite_member(folder, "train-000001.tar", key, "jpg", b"\xff\xd8\xff")
    overwrite_member(folder, "train-000002.tar", "000000013", "gaze.npy")
    messages = []
    for on_device in (True, False):
        with pytest.raises(UserError, match=r"sample 0000000(08|09|13) cannot be read: .*--skip-damaged") as error:
            read_batches(folder, on_device)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    found = read_batches(folder, True, skip_damaged=True)
    assert sum(batch.skipped for batch in found) >= 1
    assert_same(found, read_batches(folder, False, skip_damaged=True))


def test_only_baseline_jpegs_are_decoded_on_the_device(tmp_path: Path) -> None:
    baseline = encoded(photograph(64, 48, 1), "JPEG", quality=90)
    cmyk = encoded(photograph(64, 48, 2).convert("CMYK"), "JPEG")
    jpegs = {
        "subsampled": encoded(photograph(), "JPEG", subsampling="4:2:0"),
        "gray": encoded(photograph().convert("L"), "JPEG"),
        "progressive": encoded(photograph(), "JPEG", progressive=True),
        "cmyk": cmyk,
        "baseline": baseline,
    }
    samples = [disc_sample(number, 4)._replace(jpeg=jpeg) for number, jpeg in enumerate(jpegs.values())]
    folder, decoder = write_dataset(tmp_path, [samples], 4), Decoder()
    data = open_dataset(str(folder))
    spec = ViewSpec(32, VIEWS, data.classes)
    sampler = Sampler(data.sizes, len(jpegs), 0)
    [expected] = make_stream(data, sampler, spec).batches(0, 1)
    [found] = make_stream(data, sampler, spec, feed=DeviceFeed(spec, CPU, decoder)).batches(0, 1)
    assert_same([found], [expected])
    assert set(decoder.jpegs) == {jpegs["subsampled"], jpegs["gray"], jpegs["baseline"]}


def test_host_decodes_what_the_device_fails_to_decode(tmp_path: Path) -> None:
    def fail(jpegs: Sequence[bytes]) -> list[Tensor]:
        raise RuntimeError("nvJPEG status 2")

    folder = make_dataset(tmp_path, SIZES)
    data = open_dataset(str(folder))
    spec, sampler = ViewSpec(32, VIEWS, data.classes), Sampler(data.sizes, 6, 0)
    found = list(make_stream(data, sampler, spec, feed=DeviceFeed(spec, CPU, fail)).batches(0, 4))
    assert_same(found, read_batches(folder, False))


def test_feed_of_a_cpu_is_the_hosts() -> None:
    assert isinstance(make_feed(ViewSpec(32, VIEWS, None), CPU, decoded=True), HostFeed)


def test_image_sizes_are_those_of_the_stored_pixels_whatever_the_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    photograph(64, 48).save(buffer, "JPEG", exif=exif)
    folder = write_dataset(tmp_path, [[disc_sample(n, 4)._replace(jpeg=buffer.getvalue()) for n in range(6)]], 4)
    data = open_dataset(str(folder))
    spec, sampler = ViewSpec(32, VIEWS, data.classes), Sampler(data.sizes, 6, 0)
    [expected] = make_stream(data, sampler, spec).batches(0, 1)
    [found] = make_stream(data, sampler, spec, feed=DeviceFeed(spec, CPU, Decoder())).batches(0, 1)
    assert_same([found], [expected])
