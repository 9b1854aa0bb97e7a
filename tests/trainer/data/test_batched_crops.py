"""Tests that crops of a whole batch are those that are made one by one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import trainer.data.batched_crops
from common.images import decode_jpeg
from common.images.gpu_decoder import CHECK_PHOTOGRAPHS
from trainer.data.batched_crops import crop_batch
from trainer.data.crops import Crop, crop_and_resize, draw_crop


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """Black and white noise, whose resized values overshoot and are clamped: uint8 [3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (3, height, width), generator=generator, dtype=torch.uint8) * 255


def draw_crops(images: list[Tensor], seed: int = 0) -> list[list[Crop]]:
    generator = np.random.default_rng(seed)
    sizes = [image.shape[1:] for image in images]
    return [
        [draw_crop(generator, height, width), draw_crop(generator, height, width), Crop(0, 0, height, width)]
        for height, width in sizes
    ]


def largest_difference(images: list[Tensor], crops: list[list[Crop]], size: int) -> int:
    found = crop_batch(images, torch.tensor(crops), size)
    expected = torch.stack(
        [
            torch.stack([crop_and_resize(image, crop, size) for crop in of_image])
            for image, of_image in zip(images, crops, strict=True)
        ]
    )
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    return int((found.int() - expected.int()).abs().max())


@given(st.integers(1, 120), st.integers(1, 120), st.sampled_from([8, 32, 64]), st.integers(0, 99))
def test_crops_of_any_size_are_within_2_of_255(height: int, width: int, size: int, seed: int) -> None:
    images = [noise(height, width, seed)]
    assert largest_difference(images, draw_crops(images, seed), size) <= 2


@pytest.mark.parametrize("canvas", [1, 300_000, 10**8])
def test_photographs_of_mixed_sizes_in_groups_of_any_size(canvas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.data.batched_crops, "CANVAS_PIXELS", canvas)
    images = [decode_jpeg(path.read_bytes()) for path in sorted(Path(CHECK_PHOTOGRAPHS).glob("*.jpg"))]
    images += [images[0][:, :100], images[1][:, :, :77], noise(1, 1)]
    assert largest_difference(images, draw_crops(images), 96) <= 1


def test_images_of_one_size_and_channels_last() -> None:
    images = [noise(40, 60, seed).permute(1, 2, 0).contiguous().permute(2, 0, 1) for seed in range(5)]
    assert largest_difference(images, draw_crops(images), 32) <= 2


def test_result_is_channels_last_in_memory() -> None:
    images = [noise(40, 60)]
    assert crop_batch(images, torch.tensor(draw_crops(images)), 16)[0].is_contiguous(memory_format=torch.channels_last)
