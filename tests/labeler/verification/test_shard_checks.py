"""Checking a part of the shards, and resuming, in a folder, in S3 and over http."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.storage import http
from labeler.verification import verify_copied_shard, verify_shard
from labeler.verification.shard_checks import draw_shards
from labeler.verify import main
from tests.support.http_server import serve_folder

SHARDS = 4


class Dataset:
    """A data set under test: its location, and how to change a file of it."""

    def __init__(self, location: str, write: Callable[[str, bytes | None], Any]) -> None:
        self.location = location
        self.write = write  # None removes the file


@pytest.fixture
def copy(varied_dataset: Path, tmp_path: Path) -> Path:
    return shutil.copytree(varied_dataset, tmp_path / "copy")


def write_file(folder: Path, name: str, content: bytes | None) -> None:
    before = (folder / name).stat().st_mtime_ns if (folder / name).exists() else 0
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(before + 10**9, before + 10**9))


@pytest.fixture(params=["folder", "http", "s3"])
def dataset(request: pytest.FixtureRequest, copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dataset]:
    """A data set in each kind of storage, and an empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(copy.parent / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(http, "backoff", lambda attempt: 0)
    if request.param == "folder":
        yield Dataset(str(copy), lambda name, content: write_file(copy, name, content))
    elif request.param == "http":
        with serve_folder(copy) as server:
            server.etags = False
            yield Dataset(server.url, lambda name, content: write_file(copy, name, content))
    else:
        request.getfixturevalue("s3_environment")
        bucket, client = request.getfixturevalue("bucket"), request.getfixturevalue("s3").client()
        for path in copy.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), bucket, f"set/{path.relative_to(copy)}")

        def write(name: str, content: bytes | None) -> None:
            if content is None:
                client.delete_object(Bucket=bucket, Key=f"set/{name}")
            else:
                client.put_object(Bucket=bucket, Key=f"set/{name}", Body=content)

        yield Dataset(f"s3://{bucket}/set", write)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards whose content is checked."""
    names = list[str]()
    for checker in (verify_shard.PlannedShardChecker, verify_copied_shard.CopiedShardChecker):

        def find_problems(self: Any, shard: Any, original: Any = checker.find_problems) -> list[str]:
            names.append(shard.name)
            return original(self, shard)

        monkeypatch.setattr(checker, "find_problems", find_problems)
    return names


def verify(dataset: Dataset, capsys: pytest.CaptureFixture[str], *flags: object) -> dict[str, Any]:
    """Run the command and return its report, with the lines on standard error as `errors`."""
    code = main([dataset.location, "--workers", "1", *map(str, flags)])
    printed, errors = capsys.readouterr()
    report = json.loads(printed.splitlines()[-1])
    assert code == (0 if report["ok"] else 1)
    assert printed.splitlines()[:-1] == report["problems"]
    return report | {"errors": errors.splitlines()}


def test_a_part_of_the_shards_is_checked_and_the_size_of_all(
    dataset: Dataset, checked: list[str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verify(dataset, capsys, "--sample", 0.3)
    assert report["ok"]
    assert len(checked) == 2
    assert (report["checked"]["shards"], report["checked"]["share"]) == (2, 0.5)
    sentence = "the content of 2 shards of 4 (--sample 0.3 --seed 0), of which only presence and size were checked"
    assert sentence in report["unchecked"]
    assert f"not checked: {sentence}" in report["errors"]
    unread = sorted({f"train-{index:06d}.tar" for index in range(SHARDS)} - set(checked))
    content = (copy / unread[0]).read_bytes()
    dataset.write(unread[0], content[:-512])
    dataset.write(unread[1], None)
    report = verify(dataset, capsys, "--sample", 0.3)
    assert f"{unread[0]}: {len(content) - 512:,} bytes, expected {len(content):,}" in report["problems"]
    assert f"{unread[1]}: is missing" in report["problems"]


def test_a_run_that_found_problems_resumes(
    dataset: Dataset, checked: list[str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = (copy / "train-000001.tar").read_bytes()
    dataset.write("train-000001.tar", None)
    assert not verify(dataset, capsys)["ok"]
    assert len(checked) == SHARDS - 1
    checked.clear()
    dataset.write("train-000001.tar", content)
    report = verify(dataset, capsys)
    assert (report["ok"], report["checked"]["resumed"], report["checked"]["share"]) == (True, 3, 1)
    assert checked == ["train-000001.tar"]
    checked.clear()
    assert verify(dataset, capsys)["ok"]
    assert len(checked) == SHARDS  # a run without problems leaves nothing to resume


def test_changed_shards_and_a_changed_index_are_checked_again(
    dataset: Dataset, checked: list[str], copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state.txt"
    assert verify(dataset, capsys, "--state", state)["ok"]
    checked.clear()
    assert verify(dataset, capsys, "--state", state)["checked"]["resumed"] == SHARDS
    assert checked == []
    content = bytearray((copy / "train-000003.tar").read_bytes())
    content[1000] ^= 1
    dataset.write("train-000003.tar", bytes(content))
    report = verify(dataset, capsys, "--state", state)
    assert (report["ok"], checked) == (False, ["train-000003.tar"])
    checked.clear()
    dataset.write("index.parquet", (copy / "index.parquet").read_bytes() + b" ")
    verify(dataset, capsys, "--state", state)
    assert len(checked) == SHARDS
    dataset.write("manifest.json", (copy / "manifest.json").read_bytes() + b" ")
    checked.clear()
    verify(dataset, capsys, "--state", state)
    assert len(checked) == SHARDS


def test_a_damaged_state_file_costs_time_only(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.txt"
    folder = Dataset(str(copy), lambda name, content: None)
    assert verify(folder, capsys, "--state", state)["ok"]
    lines = state.read_text().splitlines()
    state.write_bytes("\n".join([lines[0][:40], "\x00garbage", *lines[1:3]]).encode() + b"\n\xff\xfe")
    assert verify(folder, capsys, "--state", state)["checked"]["resumed"] == 2


def test_without_a_writable_state_file_a_run_cannot_be_resumed(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    report = verify(Dataset(str(copy), lambda *_: None), capsys, "--state", tmp_path / "file/state.txt")
    assert report["ok"]
    [error] = report["errors"]
    assert error.startswith("this run cannot be resumed: ")


def test_draws_are_nested_and_depend_on_the_seed() -> None:
    small, large = draw_shards(1000, 0.07, 0), draw_shards(1000, 0.5, 0)
    assert (len(small), len(large), len(draw_shards(3, 0.01, 0)), draw_shards(0, 0.5, 0)) == (70, 500, 1, set())
    assert small < large < set(range(1000))
    assert small != draw_shards(1000, 0.07, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sample", "0"], "--sample: expected a fraction above 0, at most 1, found 0"),
        (["--sample", "1.5"], "--sample: expected a fraction above 0, at most 1, found 1.5"),
        (["--seed", "-1"], "--seed: expected 0 or more, found -1"),
    ],
)
def test_invalid_flags_are_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        main([str(tmp_path), *flags])
