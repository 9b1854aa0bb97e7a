"""Tests of the measures of attention maps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeler.publishing.map_measures import CELLS_PER_SIDE, compute_map_area, sum_by_cell


def test_the_area_of_a_map_is_its_relative_perplexity():
    rng = np.random.default_rng(0)
    attention = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    weights = attention[attention > 0] / attention.sum(dtype=float)
    assert compute_map_area(attention) == pytest.approx(np.exp(-(weights * np.log(weights)).sum()) / 256)
    assert compute_map_area(np.full((8, 8), 7, np.uint8)) == pytest.approx(1)
    assert compute_map_area(np.eye(1, 64, dtype=np.uint8).reshape(8, 8)) == pytest.approx(1 / 64)
    assert compute_map_area(np.zeros((8, 8), np.uint8)) == 0


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_the_cells_of_a_map_of_any_size_hold_its_mass(height: int, width: int, seed: int) -> None:
    attention = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    cells = sum_by_cell(attention)
    assert cells.shape == (CELLS_PER_SIDE, CELLS_PER_SIDE)
    assert cells.sum() == pytest.approx(attention.sum() / 255)
    assert np.allclose(sum_by_cell(np.full((height, width), 255, np.uint8)), height * width / CELLS_PER_SIDE**2)
    if height == width:
        fine = np.kron(attention / 255, np.ones((CELLS_PER_SIDE, CELLS_PER_SIDE))) / CELLS_PER_SIDE**2
        blocks = fine.reshape(CELLS_PER_SIDE, height, CELLS_PER_SIDE, height).sum(axis=(1, 3))
        assert np.allclose(cells, blocks)
