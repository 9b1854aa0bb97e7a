"""Tests of the check that an output folder holds nothing but files of the program that writes there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from common.storage import LocalStorage, Storage
from common.storage.output_folder import check_output_folder
from common.storage.s3 import S3Storage, s3_client
from tests.support.faults import FaultProxy
from tests.support.s3_server import S3Server

MARKERS, OWN = ("config.json", "deep/last"), ("tensorboard", "*.npz")


@pytest.fixture(params=["local", "S3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder that does not exist yet."""
    if request.param == "local":
        return LocalStorage(tmp_path / "runs" / "new")
    request.getfixturevalue("s3_environment")
    return S3Storage(f"s3://{request.getfixturevalue('bucket')}/runs/new")


@pytest.fixture
def proxy(s3: S3Server, s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Redirect this process's requests to S3 through a proxy that records them."""
    with FaultProxy(s3) as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        s3_client.get_client.cache_clear()
        yield running


def check(storage: Storage) -> None:
    check_output_folder(storage, "a run", MARKERS, OWN)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["config.json"],
        ["config.json", "photos/cat.jpg", "notes.txt"],
        ["deep/last", "README.md"],
        ["config.json.partial"],
        [".partial/1234"],
        ["tensorboard/deep/events", "a.npz", "b.npz"],
    ],
)
def test_new_folders_and_those_of_the_program_are_accepted(storage: Storage, names: list[str]) -> None:
    for name in names:
        storage.put(name, b"1")
    check(storage)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train-000000.tar", "README.md"], "README.md"),
        (["photos/cats/1.jpg", "photos/cats/2.jpg"], "photos/cats/1.jpg"),
        (["tensorboard/events", "notes.txt"], "notes.txt"),
        (["tensorboard/events", "z/y/x/cat.jpg"], "z/y/x/cat.jpg"),
        (["tensorboard.txt"], "tensorboard.txt"),
        (["config/config.json"], "config/config.json"),
        (["photos/a.npz"], "photos/a.npz"),
        (["deep/first"], "deep/first"),
    ],
)
def test_other_files_are_refused_with_the_name_of_the_first(storage: Storage, names: list[str], found: str) -> None:
    for name in names:
        storage.put(name, b"1")
    with pytest.raises(UserError) as error:
        check(storage)
    assert str(error.value) == (
        f"--output {storage.location}: expected a new folder, or a run to resume; found other files, such as {found}; "
        "choose another folder"
    )


def test_neighbors_of_the_folder_do_not_matter(storage: Storage, tmp_path: Path) -> None:
    location, storage_class = storage.location, type(storage)
    for neighbor in (f"{location}2", location.removesuffix("/new")):
        other = S3Storage(neighbor) if storage_class is S3Storage else LocalStorage(Path(neighbor))
        other.put("notes.txt", b"1")
    check(storage)


def test_empty_subfolders_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    check(LocalStorage(tmp_path))


def test_folders_that_the_console_of_s3_has_made_are_accepted(s3: S3Server, proxy: FaultProxy, bucket: str) -> None:
    """They are objects without content whose names end in a slash."""
    for name in ("runs/new/", "runs/new/photos/"):
        s3.client().put_object(Bucket=bucket, Key=name, Body=b"")
    check(S3Storage(f"s3://{bucket}/runs/new"))


def test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    with pytest.raises(UserError, match=r"--output .*/file: expected a folder, found a file"):
        check(LocalStorage(tmp_path / "file"))


def test_check_of_s3_costs_a_listing_however_many_objects_there_are(proxy: FaultProxy, bucket: str) -> None:
    storage = S3Storage(f"s3://{bucket}/runs/new")
    for number in range(1100):  # more than a page of a listing
        storage.replace(f"tensorboard/{number:05}", b"")
    proxy.requests.clear()
    check(storage)
    assert [request.method for request in proxy.requests] == ["HEAD", "HEAD", "GET"]  # the markers, and a listing
    storage.replace("zebras/1/stripes.jpg", b"")
    proxy.requests.clear()
    with pytest.raises(UserError, match=r"such as zebras/1/stripes\.jpg"):
        check(storage)
    assert [request.method for request in proxy.requests] == ["HEAD", "HEAD", "GET", "GET"]
