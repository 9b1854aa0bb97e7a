"""Tests of the job as a whole that need no Ray."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from common.storage import LocalStorage
from labeler.config import RetrySettings
from labeler.job import label_and_publish
from labeler.planning.generations import read_plans


@pytest.mark.parametrize("has_parts", [True, False])
def test_job_says_how_to_write_an_index_if_earlier_versions_labeled_shards(
    has_parts: bool, varied_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = shutil.copytree(varied_dataset, tmp_path / "copy")
    (dataset / "index.parquet").unlink()
    if not has_parts:
        shutil.rmtree(dataset / "index")
    storage, settings = LocalStorage(dataset), RetrySettings(dataset=str(dataset))
    teacher: Any = None  # no shard is missing, so it is not used
    assert label_and_publish(settings, storage, read_plans(storage), teacher, input_images=0) == 0
    note = f"index.parquet is missing; to write the index: python -m labeler.index {dataset}"
    assert (note in capsys.readouterr().out) != has_parts
    assert (dataset / "index.parquet").exists() == has_parts
