"""Tests of the bicubic filter against PyTorch's resizing, and of the grouping of images."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from common.images.resampling import bicubic_weights, group_by_size


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_weights_resize_as_pytorch_does(length: int, target: int, seed: int) -> None:
    signal = torch.randn(length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    image = signal.expand(1, 1, 8, length)
    expected = F.interpolate(image, (8, target), mode="bicubic", antialias=True)[0, 0, 0]
    zero, whole = torch.zeros(1, dtype=torch.float64), torch.tensor([length], dtype=torch.float64)
    found = bicubic_weights(zero, whole, target, length)[0] @ signal
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_each_interval_of_an_axis_has_the_weights_that_it_has_alone() -> None:
    starts, lengths = torch.tensor([3.0, 0.0, 10.0]), torch.tensor([5.0, 40.0, 30.0])
    together = bicubic_weights(starts, lengths, 16, 40)
    for weights, start, length in zip(together, starts.int().tolist(), lengths.int().tolist(), strict=True):
        alone = bicubic_weights(torch.zeros(1), torch.tensor([float(length)]), 16, length)[0]
        torch.testing.assert_close(weights[:, start : start + length], alone)
        assert not weights[:, :start].any()
        assert not weights[:, start + length :].any()


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12))
def test_each_group_fits_into_the_canvas_unless_it_is_a_single_image(sizes: list[tuple[int, int]]) -> None:
    images = [torch.empty(3, *size) for size in sizes]
    groups = list(group_by_size(images, 4000))
    assert sorted(index for group in groups for index in group) == list(range(len(images)))
    for group in groups:
        height, width = (max(sizes[index][axis] for index in group) for axis in (0, 1))
        assert len(group) == 1 or len(group) * height * width <= 4000
