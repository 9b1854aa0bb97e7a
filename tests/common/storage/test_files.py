from pathlib import Path

import pytest

from common.storage.files import cache_folder, open_atomically, write_atomically


def lose_unfinished_file(path: Path) -> None:
    with open_atomically(path):
        path.with_name(f"{path.name}.partial").unlink()
        raise RuntimeError


def test_folders_may_exist(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_atomically(tmp_path / "a" / "b" / "x", content)
        assert (tmp_path / "a" / "b" / "x").read_bytes() == content


def test_error_of_the_block_is_raised_even_if_the_unfinished_file_is_gone(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        lose_unfinished_file(tmp_path / "x")


def test_unfinished_file_is_next_to_the_file_and_named_after_it(tmp_path: Path) -> None:
    with open_atomically(tmp_path / "x.json"):
        assert [path.name for path in tmp_path.iterdir()] == ["x.json.partial"]


def test_folder_in_place_of_the_file_is_an_os_error_and_leaves_no_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "x" / "y").mkdir(parents=True)
    with pytest.raises(OSError, match="x"):
        write_atomically(tmp_path / "x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_cache_folder_is_in_xdg_cache_home_or_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/imagenet-attn")
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == Path("/home/someone/.cache/imagenet-attn")
