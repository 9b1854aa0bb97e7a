import pytest

from tests.support.pictures import jpeg, write
from tests.support.seeing_teachers import data_set, looks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs that people looked at, and some more."""
    folder = tmp_path_factory.mktemp("data")
    data_set(folder / "people", looks(10))
    write(folder / "more", {f"{index}.jpg": jpeg(seed=100 + index) for index in range(4)})
    return folder
