"""Tests of the check of the output folder of a labeling job."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.manifest import PLAN
from common.storage import LocalStorage
from labeler.planning.preflight import check_output


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "out")


@pytest.mark.parametrize("names", [[], [".partial/1234"], [PLAN, "train-000000.tar", "notes/mine.txt"]])
def test_new_folder_and_data_set_are_accepted(storage: LocalStorage, names: list[str]) -> None:
    for name in names:
        storage.put(name, b"1")
    check_output(storage)


@pytest.mark.parametrize("name", ["thesis.txt", "config.json", "photos/cats/1.jpg", "old/plan.json"])
def test_folder_with_other_files_is_refused_also_if_they_are_in_subfolders(storage: LocalStorage, name: str) -> None:
    storage.put(name, b"1")
    with pytest.raises(UserError, match=f"expected a new folder, or a data set to resume; found .* such as {name}"):
        check_output(storage)
