from pathlib import Path

import pytest

from common.errors import UserError
from common.storage import LocalStorage
from tests.support.data.datasets import make_dataset
from trainer.data.dataset import open_dataset
from trainer.data.shard_reader import ShardReader


@pytest.mark.parametrize("skip_damaged", [False, True])
def test_failing_store_is_not_a_damaged_shard(
    tmp_path: Path, skip_damaged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(str(make_dataset(tmp_path, [4])))

    def fail(self: LocalStorage, name: str) -> bytes:
        raise UserError("the credentials have expired")

    monkeypatch.setattr(LocalStorage, "read", fail)
    with pytest.raises(UserError, match=r"^the credentials have expired$"):
        ShardReader(data, skip_damaged).read(0)


def test_missing_shard_is_damaged(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path, [4, 3])
    data = open_dataset(str(folder))
    (folder / data.shards[1]).unlink()
    with pytest.raises(UserError, match=r"damaged at its first sample: expected 3 samples, found 0 \(No such file"):
        ShardReader(data).read(1)
    assert ShardReader(data, skip_damaged=True).read(1) == []
