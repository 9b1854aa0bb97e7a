import pytest

from common.cluster import join_ray
from common.errors import UserError


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there .*unset RAY_ADDRESS"),
        ("ray://127.0.0.1:1", "RAY_ADDRESS=ray://127.0.0.1:1: no Ray cluster answers there"),
        ("auto", "RAY_ADDRESS=auto: no Ray cluster runs here"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_of_at_once(monkeypatch, address, message):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_TMPDIR", "/nonexistent")  # where auto looks for a cluster
    with pytest.raises(UserError, match=message):
        join_ray(show_workers_output=False)
