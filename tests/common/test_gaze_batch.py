"""Tests that gaze points found in batches are those of `gaze_points`, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from common.errors import ImageFailure
from common.gaze import batch_gaze_points, find_peaks, gaze_points


def blurred_points(points: int, seed: int, size: tuple[int, int] = (120, 160), sigma: float = 4.75) -> np.ndarray:
    generator = np.random.default_rng(seed)
    attention = np.zeros(size, np.float32)
    np.add.at(attention, tuple(generator.integers(0, side, points) for side in size), 1)
    return gaussian_filter(attention, sigma)


def assert_same_points(maps: np.ndarray, sigma: float, threshold: float = 0.2, max_points: int = 200) -> None:
    peaks = find_peaks(torch.from_numpy(maps), sigma, threshold, max_points)
    for index, attention in enumerate(maps):
        expected = gaze_points(attention, sigma, threshold, max_points)
        found = peaks.points(index)
        assert found.dtype == np.float32
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("points", [1, 5, 40])
def test_points_of_blurred_fixations_are_the_same(points: int) -> None:
    assert_same_points(np.stack([blurred_points(points, seed) for seed in range(8)]), 4.75)


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([0.01, 0.5, 2.0, 30.0]),
    st.sampled_from([0.05, 0.2, 0.7, 1.0]),
    st.integers(1, 60),
    st.integers(0, 99),
)
def test_points_of_noise_are_the_same(
    height: int, width: int, sigma: float, threshold: float, max_points: int, seed: int
) -> None:
    maps = np.random.default_rng(seed).random((3, height, width), dtype=np.float32)
    maps[:, 0, 0] += 1  # maps of a single pixel are constant
    if height * width > 1:
        assert_same_points(maps, sigma, threshold, max_points)


def test_first_of_equal_maxima_is_taken() -> None:
    maps = np.zeros((1, 20, 30), np.float32)
    maps[0, [3, 3, 17], [25, 4, 1]] = 1
    assert_same_points(maps, 0.5)
    assert find_peaks(torch.from_numpy(maps), 0.5, 0.2, 1).points(0)[0] == pytest.approx([4.5 / 30, 3.5 / 20, 1])


@pytest.mark.parametrize("max_points", [1, 7, 8, 9, 16])
def test_number_of_points_is_limited(max_points: int) -> None:
    assert_same_points(np.stack([blurred_points(40, seed) for seed in range(3)]), 4.75, 0.01, max_points)


def test_bad_maps_raise_the_failure_of_gaze_points_and_do_not_affect_others() -> None:
    good = blurred_points(10, 0)
    bad = [np.full_like(good, np.nan), np.full_like(good, np.inf), np.zeros_like(good), np.ones_like(good), -good - 1]
    partly_nan = good.copy()
    partly_nan[60, 80] = np.nan
    maps = np.stack([good, *bad, partly_nan, good])
    peaks = find_peaks(torch.from_numpy(maps), 4.75, 0.2, 200)
    for index in (0, len(maps) - 1):
        assert np.array_equal(peaks.points(index), gaze_points(good, 4.75))
    for index in range(1, len(maps) - 1):
        with pytest.raises(ImageFailure) as expected:
            gaze_points(maps[index], 4.75)
        with pytest.raises(ImageFailure) as found:
            peaks.points(index)
        assert (found.value.reason, str(found.value)) == (expected.value.reason, str(expected.value))


def test_points_of_a_batch_on_a_cpu_are_those_of_each_map_and_constant_maps_have_none() -> None:
    maps = np.stack([blurred_points(20, 0), np.zeros((120, 160), np.float32), blurred_points(20, 1)])
    first, constant, last = batch_gaze_points(torch.from_numpy(maps), 4.75)
    assert np.array_equal(first, gaze_points(maps[0], 4.75))
    assert np.array_equal(last, gaze_points(maps[2], 4.75))
    assert (constant.shape, constant.dtype) == ((0, 3), np.float32)
    with pytest.raises(ImageFailure, match="NaN or infinity"):
        batch_gaze_points(torch.full((1, 8, 8), torch.nan), 1.0)
