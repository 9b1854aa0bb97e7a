import pytest

from tests.support.data.fixation_data import random_fixations, write_fixation_data
from tests.support.data.pictures import jpeg, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of ten photographs with fixations (`people`) and four without (`more`)."""
    folder = tmp_path_factory.mktemp("data")
    write_fixation_data(folder / "people", random_fixations(10))
    write(folder / "more", {f"{index}.jpg": jpeg(seed=100 + index) for index in range(4)})
    return folder
