"""Tests of labeling in batches on a device, which is a CPU here: its shards are those of the CPU's path.

test_gpu.py compares both on a GPU.
"""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.errors import Reason
from common.images import decode_jpeg
from common.images.gpu_decoder import explain_difference
from common.manifest import ShardRecord
from common.sources import open_source
from common.storage import LocalStorage
from labeler.labeling.gpu_backend import GpuBackend
from labeler.labeling.resize import MAX_SIDE
from labeler.labeling.shard import ShardLabeler
from labeler.labeling.timing import PhaseTimer
from labeler.teacher.weights import CustomTeacher, load_teacher
from tests.support.data.pictures import encoded, hostile_images, jpeg, photograph, rotated_jpeg, write
from tests.support.jobs import checksums, photographs, planned, shard_labeler
from tests.support.teachers import gradient_teacher

CPU = torch.device("cpu")
TAR = "train-000000.tar"
EXACT = {"quality": 95, "subsampling": 0}  # JPEGs that a GPU decodes to the CPU's pixels


class Decoder:
    """Decoder of a device that is a CPU. Counts the JPEGs; fails on batches with a damaged one, as nvJPEG does."""

    def __init__(self, damaged: Sequence[bytes] = ()) -> None:
        self.damaged = damaged
        self.decoded = 0

    def __call__(self, jpegs: Sequence[bytes]) -> list[Tensor]:
        if any(jpeg in self.damaged for jpeg in jpegs):
            raise RuntimeError("nvJPEG: one of the images is damaged")
        self.decoded += len(jpegs)
        return [decode_jpeg(jpeg) for jpeg in jpegs]


def label_on_device(
    images: Path,
    output: Path,
    decode: Callable[[Sequence[bytes]], list[Tensor]] | None,
    teacher: nn.Module | None = None,
    **config: Any,
) -> ShardRecord:
    plan = planned(images, output, **config)
    backend = GpuBackend(teacher or CustomTeacher(gradient_teacher()), plan.config, CPU, decode)
    return ShardLabeler(plan, LocalStorage(output), open_source(plan.input), backend, threads=2).label(0)


def label_on_cpu(images: Path, output: Path, teacher: nn.Module | None = None, **config: Any) -> ShardRecord:
    return shard_labeler(planned(images, output, **config), output, teacher).label(0)


def mixed_images() -> dict[str, bytes]:
    """Return images that a GPU decodes and others, of several sizes and orientations."""
    simple = {f"simple{seed}.jpg": jpeg(90 + 7 * seed, 70 + seed, seed, **EXACT) for seed in range(5)}
    turned = {f"turned{turn}.jpg": turned_jpeg(turn) for turn in range(1, 9)}
    return {
        **simple,
        **turned,
        "gray.jpg": encoded(photograph(80, 60, 9).convert("L"), "JPEG"),
        "subsampled.jpg": jpeg(100, 75, 10, subsampling=2),
        "subsampled_and_turned.jpg": rotated_jpeg(6, 90, 64, 11),
        "progressive.jpg": jpeg(90, 60, 12, progressive=True, subsampling=0),
        "wide.jpg": jpeg(1700, 10, 13, **EXACT),
        "strip.jpg": jpeg(20_000, 8, 15, **EXACT),
        "pixel.jpg": jpeg(1, 1, 16, **EXACT),
        "cmyk.jpg": encoded(photograph(80, 60, 17).convert("CMYK"), "JPEG"),
        "picture.png": encoded(photograph(64, 48, 14), "PNG"),
    }


def turned_jpeg(orientation: int) -> bytes:
    content = Image.open(io.BytesIO(rotated_jpeg(orientation, 80, 50, orientation)))
    return encoded(content, "JPEG", exif=content.getexif(), **EXACT)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("decoder", [Decoder, lambda: None], ids=["device decoder", "no device decoder"])
@pytest.mark.parametrize("map_encoder", ["isal", None])
def test_shard_is_that_of_the_cpu(
    batch_size: int, decoder: Callable[[], Any], map_encoder: str | None, tmp_path: Path
) -> None:
    images = write(tmp_path / "images", mixed_images())
    settings = {"map_size": 48, "batch_size": batch_size, "map_encoder": map_encoder, "min_side": 1}
    expected = label_on_cpu(images, tmp_path / "cpu", **settings)
    decode = decoder()
    found = label_on_device(images, tmp_path / "device", decode, **settings)
    assert found.sha256 == expected.sha256
    assert found.samples == len(mixed_images())
    assert decode is None or decode.decoded == 5 + 8 + 1 + 1 + 1  # simple, turned, gray, wide, pixel
    assert found.seconds.keys() >= {"fetch", "decode", "device_decode", "teacher", "encode", "wait_encode", "write"}


def test_shard_with_the_bundled_teacher_is_that_of_the_cpu(tmp_path: Path) -> None:
    images = write(tmp_path / "images", {f"{seed}.jpg": jpeg(160, 120, seed, **EXACT) for seed in range(4)})
    label_on_cpu(images, tmp_path / "cpu", load_teacher("bundled"), batch_size=2)
    label_on_device(images, tmp_path / "device", Decoder(), load_teacher("bundled"), batch_size=2)
    assert checksums(tmp_path / "device")[TAR] == checksums(tmp_path / "cpu")[TAR]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_hostile_images_have_the_reasons_and_labels_of_the_cpu(batch_size: int, tmp_path: Path) -> None:
    hostile = {name: content for name, (content, _) in hostile_images().items()}
    contents = {**hostile, **mixed_images()}
    images = write(tmp_path / "images", contents)
    settings = {"map_size": 32, "batch_size": batch_size}
    expected = label_on_cpu(images, tmp_path / "cpu", **settings)
    found = label_on_device(images, tmp_path / "device", Decoder(), **settings)
    assert found.samples + len(found.failed) == len(contents)
    assert [(failure.uri, failure.reason) for failure in found.failed] == [
        (failure.uri, failure.reason) for failure in expected.failed
    ]
    assert found.sha256 == expected.sha256


@pytest.mark.parametrize("filler", [None, 0, 128, 255])
def test_damaged_jpeg_costs_one_reason_code_and_no_other_label(filler: int | None, tmp_path: Path) -> None:
    """Whether the device's decoder refuses the batch or fills in the missing blocks, with any color."""
    whole = jpeg(160, 120, 0, **EXACT)
    cut = whole[: len(whole) // 2] + b"\xff\xd9"
    good = {f"good{seed}.jpg": jpeg(90, 60, seed, **EXACT) for seed in range(5)}
    images = write(tmp_path / "images", {**good, "cut.jpg": cut})

    def fill(jpegs: Sequence[bytes]) -> list[Tensor]:
        decoded = [decode_jpeg(content) for content in jpegs]
        for content, pixels in zip(jpegs, decoded, strict=True):
            if content == cut:
                pixels[:, 64:] = filler
        return decoded

    decode = Decoder(damaged=[cut]) if filler is None else fill
    expected = label_on_cpu(images, tmp_path / "cpu", batch_size=64)
    found = label_on_device(images, tmp_path / "device", decode, batch_size=64)
    assert [(failure.uri, failure.reason) for failure in found.failed] == [("cut.jpg", Reason.TRUNCATED)]
    assert found.sha256 == expected.sha256


def test_sound_images_with_a_uniform_corner_are_labeled(tmp_path: Path) -> None:
    picture = np.array(photograph(80, 64, 1))
    contents = {}
    for value in (0, 128, 255):
        picture[40:, 40:] = value
        contents[f"{value}.jpg"] = encoded(Image.fromarray(picture), "JPEG", **EXACT)
    images = write(tmp_path / "images", contents)
    assert label_on_device(images, tmp_path / "device", Decoder(), batch_size=8).samples == 3


def test_map_with_nan_costs_one_reason_code(tmp_path: Path) -> None:
    class NanForDarkImages(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            maps = images.mean(1)
            maps[maps.mean((1, 2)) < 0.1] = torch.nan
            return maps

    dark = Image.fromarray((np.array(photograph(80, 60, 3)) / 20).astype(np.uint8))
    bright = {f"{seed}.jpg": jpeg(80, 60, seed, **EXACT) for seed in range(3)}
    images = write(tmp_path / "images", {**bright, "dark.jpg": encoded(dark, "JPEG", **EXACT)})
    teacher = functools.partial(CustomTeacher, NanForDarkImages())
    found = label_on_device(images, tmp_path / "device", Decoder(), teacher(), batch_size=8)
    assert [(failure.uri, failure.reason) for failure in found.failed] == [("dark.jpg", Reason.NON_FINITE_MAP)]
    assert found.sha256 == label_on_cpu(images, tmp_path / "cpu", teacher(), batch_size=8).sha256


class BatchSizes(nn.Module):
    """Teacher that records the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return images.mean(1)


@pytest.mark.parametrize(("map_encoder", "sizes"), [("isal", [4, 4, 4]), (None, [4, 4, 3])])
def test_last_batch_is_padded_unless_the_plan_is_of_an_earlier_version(
    map_encoder: str | None, sizes: list[int], tmp_path: Path
) -> None:
    images, teacher = photographs(tmp_path / "images", 11), BatchSizes()
    settings = {"batch_size": 4, "map_encoder": map_encoder}
    record = label_on_device(images, tmp_path / "device", None, CustomTeacher(teacher), **settings)
    assert teacher.sizes == sizes
    assert record.samples == 11


@pytest.mark.parametrize(("sides", "on_device"), [((MAX_SIDE, 40), True), ((40, MAX_SIDE + 1), False)])
def test_large_images_are_resized_on_the_cpu(sides: tuple[int, int], on_device: bool, tmp_path: Path) -> None:
    plan = planned(photographs(tmp_path / "images", 1), tmp_path / "out")
    content = jpeg(*sides, **EXACT)
    for decode, small in ((Decoder(), None), (None, (3, *sides[::-1]))):
        backend = GpuBackend(CustomTeacher(gradient_teacher()), plan.config, CPU, decode)
        loaded = backend.load(content)
        expected = small if on_device else (3, 480, 640)
        assert (loaded.pixels if loaded.pixels is None else loaded.pixels.shape) == expected
        assert (loaded.stored.width, loaded.stored.height) == sides


def test_out_of_memory_is_not_taken_for_a_damaged_image(tmp_path: Path) -> None:
    def decode(jpegs: Sequence[bytes]) -> list[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    plan = planned(photographs(tmp_path / "images", 1), tmp_path / "out")
    backend = GpuBackend(CustomTeacher(gradient_teacher()), plan.config, CPU, decode)
    with pytest.raises(torch.OutOfMemoryError):
        backend.predict([backend.load(jpeg(**EXACT))], PhaseTimer())


def test_decoder_of_the_device_is_used_only_if_its_pixels_are_those_of_the_cpu() -> None:
    def inexact(jpegs: Sequence[bytes]) -> list[Tensor]:
        return [pixels ^ (index == 2) for index, pixels in enumerate(Decoder()(jpegs))]

    def broken(jpegs: Sequence[bytes]) -> list[Tensor]:
        raise RuntimeError("nvJPEG is not available")

    decoder = Decoder()
    assert explain_difference(decoder) is None
    assert decoder.decoded == 4
    assert explain_difference(inexact) == "its pixels differ from those of the CPU's decoder"
    assert explain_difference(broken) == "nvJPEG is not available"
