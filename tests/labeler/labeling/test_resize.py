"""Tests that images resized in batches have the bytes of PyTorch's resizing on a CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import labeler.labeling.resize
from common.images import decode_jpeg
from common.images.gpu_decoder import CHECK_PHOTOGRAPHS
from labeler.labeling.resize import MAX_SIDE, MIDDLE, _make_filter, resize_batch
from labeler.teacher.model import resize_to_input
from tests.support.data.pictures import photograph


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """Black and white noise, whose resized values overshoot and are clamped: uint8 [3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (3, height, width), generator=generator, dtype=torch.uint8) * 255


def pixels(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.array(photograph(width, height, seed))).permute(2, 0, 1)


def assert_resized(images: list[Tensor], count: int | None = None) -> None:
    resized = resize_batch(images, count or len(images))
    assert resized.dtype == torch.float32
    assert len(resized) == (count or len(images))
    for image, found in zip(images, resized, strict=False):
        assert torch.equal(found.to(torch.uint8), resize_to_input(image)), image.shape
        assert (found == found.round()).all()
    assert not resized[len(images) :].any()


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 9))
def test_any_size_is_resized_to_the_same_bytes(height: int, width: int, seed: int) -> None:
    assert_resized([noise(height, width, seed)])


@pytest.mark.parametrize(
    "size", [(375, 500), (480, 640), (1, 1), (3, MAX_SIDE), (MAX_SIDE, 8), (960, 1280), (1500, 1800)]
)
def test_photographs_are_resized_to_the_same_bytes(size: tuple[int, int]) -> None:
    assert_resized([pixels(*size), noise(*size)])


@pytest.mark.parametrize("target", [480, 640])
def test_sums_of_any_pixels_are_integers_that_float32_holds(target: int) -> None:
    for source in [*range(1, 700, 7), *range(700, MAX_SIDE, 50), MAX_SIDE]:
        weights = _make_filter(source, target, torch.device("cpu")).weights.double()
        assert weights.abs().sum(1).max() * MIDDLE <= 2**24
        assert (weights == weights.round()).all()


def test_batch_of_mixed_sizes_keeps_its_order_and_is_padded_with_black() -> None:
    sizes = [(500, 333), (60, 80), (375, 500), (700, 20), (480, 640), (60, 80)]
    assert_resized([pixels(*size, seed) for seed, size in enumerate(sizes)], count=8)


@pytest.mark.parametrize("canvas", [1, 60 * 80, 2 * 60 * 80, 100_000])
def test_groups_of_any_size_give_the_same_bytes(canvas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labeler.labeling.resize, "CANVAS_PIXELS", canvas)
    assert_resized([pixels(*size) for size in [(80, 60), (60, 80), (200, 300), (60, 80), (10, 400)]])


def test_no_canvas_is_larger_than_the_limit_unless_for_a_single_image(monkeypatch: pytest.MonkeyPatch) -> None:
    canvases = []
    original = labeler.labeling.resize._resize_group

    def record(images: list[Tensor]) -> Tensor:
        sides = [max(image.shape[axis] for image in images) for axis in (1, 2)]
        canvases.append((len(images), len(images) * sides[0] * sides[1]))
        return original(images)

    monkeypatch.setattr(labeler.labeling.resize, "_resize_group", record)
    monkeypatch.setattr(labeler.labeling.resize, "CANVAS_PIXELS", 20_000)
    assert_resized([pixels(*size) for size in [(80, 60), (60, 80), (200, 300), (60, 80), (10, 400), (90, 90)]])
    assert sum(number for number, _ in canvases) == 6
    assert all(area <= 20_000 or number == 1 for number, area in canvases)
    assert len(canvases) < 6


@pytest.mark.parametrize("path", sorted(CHECK_PHOTOGRAPHS.glob("*.jpg")), ids=lambda path: path.stem)
def test_check_photographs_are_resized_to_the_same_bytes(path: Path) -> None:
    assert_resized([decode_jpeg(path.read_bytes())])
