import gc
import os

import pytest

from common.errors import UserError
from common.storage.run_folder import RunFolder


def test_a_document_is_written_whole_and_read_again(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_json("deep/figures.json", {"a": 1})
    assert folder.read_json("deep/figures.json") == {"a": 1}
    assert folder.read_json("absent.json") is None
    assert [path.name for path in (tmp_path / "run/deep").iterdir()] == ["figures.json"]


def test_a_name_of_odd_bytes_is_written_all_the_same(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write("README.md", "learnt from " + os.fsdecode(b"latin-\xe9"))
    assert "latin-" in (tmp_path / "README.md").read_text()


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/result\.json: cannot be written"):
        RunFolder(str(tmp_path / "file")).write_json("result.json", {})


@pytest.mark.usefixtures("s3_environment")
def test_of_a_run_in_s3_nothing_stays_here(bucket):
    folder = RunFolder(f"s3://{bucket}/run")
    folder.write("note.txt", "kept")
    place = folder.path
    assert place.is_dir()
    del folder
    gc.collect()
    assert not place.exists()
    assert RunFolder(f"s3://{bucket}/run").fetch("note.txt").name == "note.txt"
