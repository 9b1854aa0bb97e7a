"""Tests of the default number of workers of a GPU. Clusters are tested in tests/integration."""

import pytest

from labeler.distributed.resources import default_gpu_share


@pytest.mark.parametrize(
    ("cores", "workers"), [(0.5, 1), (1, 1), (3, 1), (4, 2), (8, 4), (12, 6), (16, 8), (64, 8), (208 / 8, 8)]
)
def test_as_many_workers_share_a_gpu_as_have_two_cores_up_to_eight(cores: float, workers: int) -> None:
    assert default_gpu_share(cores) == 1 / workers
