"""Tests of the YAML metadata of the data set card. integration/test_folder_readers.py loads data sets by it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from common.manifest import Manifest
from common.shards import MEMBERS, SampleInfo
from labeler.publishing.card_metadata import make_metadata
from tests.support.data.datasets import make_dataset


def metadata_of(dataset: Path, **changes: Any) -> dict[str, Any]:
    manifest = Manifest.model_validate_json((dataset / "manifest.json").read_bytes())
    return yaml.safe_load(make_metadata(manifest.model_copy(update=changes)))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), [2, 1])


def test_shards_are_the_only_files_of_the_only_split(dataset: Path) -> None:
    files = [{"split": "train", "path": "train-*.tar"}]
    assert metadata_of(dataset)["configs"] == [{"config_name": "default", "data_files": files}]


def test_columns_are_the_members_of_a_sample(dataset: Path) -> None:
    columns = {column["name"]: column for column in metadata_of(dataset)["dataset_info"]["features"]}
    assert list(columns) == [*MEMBERS, "__key__", "__url__"]
    assert [field["name"] for field in columns["json"]["struct"]] == list(SampleInfo.model_fields)
    columns = metadata_of(dataset, include_images=False, classes=None)["dataset_info"]["features"]
    assert [column["name"] for column in columns] == [*MEMBERS[2:], "__key__", "__url__"]


@pytest.mark.parametrize(
    ("samples", "category"),
    [(999, "n<1K"), (1_000, "1K<n<10K"), (1_281_167, "1M<n<10M"), (10_000_000, "10M<n<100M")],
)
def test_size_category_is_that_of_the_hub(dataset: Path, samples: int, category: str) -> None:
    assert metadata_of(dataset, written=samples)["size_categories"] == [category]


def test_classification_is_a_task_of_data_sets_with_classes_only(dataset: Path) -> None:
    assert "image-classification" in metadata_of(dataset)["task_categories"]
    assert metadata_of(dataset, classes=None)["task_categories"] == ["image-feature-extraction"]


def test_license_is_left_to_the_publisher(dataset: Path) -> None:
    assert "license" not in metadata_of(dataset)
