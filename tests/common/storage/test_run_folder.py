import gc
import os

import pytest

from common.errors import UserError
from common.storage.run_folder import RunFolder


def test_document_is_written_atomically_and_read_back(tmp_path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.write_json("deep/figures.json", {"a": 1})
    assert folder.read_json("deep/figures.json") == {"a": 1}
    assert folder.read_json("absent.json") is None
    assert [path.name for path in (tmp_path / "run/deep").iterdir()] == ["figures.json"]


def test_text_with_undecodable_bytes_is_written(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write("README.md", "trained on " + os.fsdecode(b"latin-\xe9"))
    assert "latin-" in (tmp_path / "README.md").read_text()


def test_unwritable_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/result\.json: cannot be written"):
        RunFolder(str(tmp_path / "file")).write_json("result.json", {})


@pytest.mark.usefixtures("s3_environment")
def test_run_in_s3_leaves_no_local_files(bucket):
    folder = RunFolder(f"s3://{bucket}/run")
    folder.write("note.txt", "uploaded")
    path = folder.path
    assert path.is_dir()
    del folder
    gc.collect()
    assert not path.exists()
    assert RunFolder(f"s3://{bucket}/run").fetch("note.txt").name == "note.txt"
