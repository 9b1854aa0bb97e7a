"""Tests on a GPU (TEST_GPU=1): its decoder, and its labels compared with those of the CPU."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ImageFailure
from common.images import decode_jpeg, read_photograph
from common.images.gpu_decoder import CHECK_PHOTOGRAPHS, decode_with_nvjpeg, explain_difference
from common.images.jpeg import read_jpeg_header
from common.manifest import LabelConfig
from labeler.labeling.backend import Backend
from labeler.labeling.cpu_backend import CpuBackend
from labeler.labeling.gpu_backend import GpuBackend
from labeler.labeling.label import Label
from labeler.labeling.resize import MAX_SIDE, resize_batch
from labeler.labeling.timing import PhaseTimer
from labeler.teacher.model import resize_to_input
from labeler.teacher.weights import load_teacher
from tests.support.data.pictures import jpeg

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and TEST_GPU=1")

DEVICE = torch.device("cuda")
BATCH = 32
decode = functools.partial(decode_with_nvjpeg, device=DEVICE)


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> list[bytes]:
    """The ImageNet photographs of the development data."""
    return [path.read_bytes() for path in sorted((shared_data / "imagenet-sample").rglob("*.JPEG"))]


def predict(backend: Backend, jpegs: Sequence[bytes]) -> list[Label]:
    labels = []
    for start in range(0, len(jpegs), backend.batch_size):
        loaded = [backend.load(content) for content in jpegs[start : start + backend.batch_size]]
        labels += [make_label() for make_label in backend.predict(loaded, PhaseTimer())]
    return labels


def test_check_photographs_decode_to_the_pixels_of_the_cpu() -> None:
    assert explain_difference(decode) is None


def test_all_photographs_that_the_gpu_decodes_have_the_pixels_of_the_cpu(photographs: list[bytes]) -> None:
    headers = [(content, read_jpeg_header(content)) for content in photographs]
    simple = [content for content, header in headers if header is not None and header.is_simple]
    assert len(simple) > len(photographs) / 2
    for content, pixels in zip(simple, decode(simple), strict=True):
        assert torch.equal(pixels.cpu(), decode_jpeg(content))


def test_photographs_are_resized_to_the_pixels_of_the_cpu(photographs: list[bytes]) -> None:
    images = [decode_jpeg(content) for content in photographs]
    images = [image for image in images if max(image.shape) <= MAX_SIDE][:BATCH]
    resized = resize_batch([image.to(DEVICE) for image in images], BATCH).cpu()
    for image, found in zip(images, resized, strict=False):
        assert torch.equal(found.to(torch.uint8), resize_to_input(image))


def test_labels_are_those_of_the_cpu(photographs: list[bytes]) -> None:
    config = LabelConfig(batch_size=BATCH, map_encoder="isal")
    sound = [content for content in photographs if read_photograph(content, 10**8, 8)]
    on_gpu = predict(GpuBackend(load_teacher("bundled"), config, DEVICE, decode), sound)
    on_cpu = predict(CpuBackend(load_teacher("bundled"), LabelConfig(batch_size=1)), sound)
    differences = np.stack([a.attention.astype(int) - b.attention for a, b in zip(on_gpu, on_cpu, strict=True)])
    assert (np.abs(differences) > 1).mean() <= 1e-4
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert found.gaze[:5, :2] == pytest.approx(expected.gaze[:5, :2], abs=1e-6)


def test_decoder_does_not_write_into_memory_that_queued_work_still_reads() -> None:
    """The hardware decoder of an H100 ignores its stream."""
    jpegs = [jpeg(500, 375, seed, quality=95, subsampling=0) for seed in range(16)]
    for _ in range(50):
        numbers = torch.rand(16, 3, 375, 500, device=DEVICE)
        expected = numbers.double().sum().item()
        matrix = torch.rand(4096, 4096, device=DEVICE)
        for _ in range(10):
            matrix = matrix @ matrix / 4096  # keeps the stream busy
        total = numbers.double().sum()
        del numbers  # the allocator may hand out its memory at once
        decoded: list[Tensor] = decode(jpegs)
        assert total.item() == expected
        del decoded


def test_damaged_jpeg_in_a_batch_fails_alone() -> None:
    whole = (CHECK_PHOTOGRAPHS / "coffee.jpg").read_bytes()
    cut = whole[: len(whole) // 2] + b"\xff\xd9"
    backend = GpuBackend(load_teacher("bundled"), LabelConfig(batch_size=8, map_encoder="isal"), DEVICE, decode)
    batch = [backend.load(content) for content in (whole, cut, whole)]
    first, second, third = backend.predict(batch, PhaseTimer())
    assert (first().attention == third().attention).all()
    with pytest.raises(ImageFailure, match="premature end"):
        second()
