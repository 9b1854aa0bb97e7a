"""Published files: text for people may differ from what this version writes, everything else may not."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.storage import LocalStorage
from labeler.publishing.publish import publish
from labeler.verify import verify_dataset
from tests.support.jobs import photographs, planned, shard_labeler

Document = dict[str, Any]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    images = photographs(folder / "images", 6, classes=2)
    (images / "class0/empty.jpg").write_bytes(b"")
    plan = planned(images, folder / "out", map_size=32, samples_per_shard=4)
    labeler = shard_labeler(plan, folder / "out")
    for shard in plan.shard_indices:
        labeler.label(shard)
    assert publish(LocalStorage(folder / "out"), [plan], max_bad_fraction=1)[1]
    assert find_problems(folder / "out") == []
    return folder / "out"


@pytest.fixture
def dataset(published: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be changed by a test."""
    return shutil.copytree(published, tmp_path / "copy")


def find_problems(dataset: Path) -> list[str]:
    return verify_dataset(str(dataset), workers=1)["problems"]


def write(path: Path, content: str) -> None:
    path.unlink()
    path.write_text(content)


def change(path: Path, edit: Callable[[Document], object]) -> None:
    """Edit a JSON file."""
    document = json.loads(path.read_text())
    before = json.dumps(document)
    edit(document)
    assert json.dumps(document) != before
    write(path, json.dumps(document, indent=3))


def replace_descriptions(path: Path) -> int:
    """Replace every description in a JSON file; return their number."""
    content, count = re.subn(r'("description": ?)"(?:[^"\\]|\\.)*"', r'\1"other words"', path.read_text())
    write(path, content)
    return count


def test_other_descriptions_in_the_schema_are_accepted(dataset: Path) -> None:
    assert replace_descriptions(dataset / "schema.json") > 5
    assert find_problems(dataset) == []


def test_a_schema_without_titles_and_descriptions_is_accepted(dataset: Path) -> None:
    def edit(schema: Document) -> None:
        for part in (schema, *schema["properties"].values()):
            part.pop("title")
            part.pop("description", None)

    change(dataset / "schema.json", edit)
    assert find_problems(dataset) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda schema: schema["properties"]["width"].update(type="number"),
        lambda schema: schema["properties"]["exif_orientation"].update(maximum=9),
        lambda schema: schema["properties"]["source_sha256"].pop("pattern"),
        lambda schema: schema["properties"].pop("teacher"),
        lambda schema: schema["properties"].update(title={"type": "string"}),
        lambda schema: schema["properties"].update(description={"type": "string"}),
        lambda schema: schema["required"].remove("source"),
    ],
    ids=["type", "limit", "pattern", "removed property", "property title", "property description", "required"],
)
def test_another_structure_of_the_schema_is_reported(dataset: Path, edit: Callable[[Document], object]) -> None:
    change(dataset / "schema.json", edit)
    assert find_problems(dataset) == ["schema.json: does not match the plan and the records"]


def test_other_text_in_the_card_is_accepted(dataset: Path) -> None:
    write(dataset / "README.md", "# Pictures\n\nwords of an older version\n")
    assert find_problems(dataset) == []


def test_other_text_in_croissant_json_is_accepted(dataset: Path) -> None:
    assert replace_descriptions(dataset / "croissant.json") > 5

    def edit(croissant: Document) -> None:
        croissant["@context"].pop("samplingRate")
        croissant |= {"citeAs": "other", "license": "other", "url": "https://example.org", "name": "other"}

    change(dataset / "croissant.json", edit)
    assert find_problems(dataset) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda croissant: croissant["distribution"][0].update(sha256="0" * 64),
        lambda croissant: croissant["distribution"][1].update(contentSize="1 B"),
        lambda croissant: croissant["distribution"].pop(0),
        lambda croissant: croissant["distribution"][-1]["containedIn"].pop(),
        lambda croissant: croissant["distribution"][-1].update(includes="*.other"),
        lambda croissant: croissant["recordSet"].pop(),
        lambda croissant: croissant.pop("distribution"),
    ],
    ids=["checksum", "size", "shard", "shard of a file set", "members", "record set", "distribution"],
)
def test_another_structure_of_croissant_json_is_reported(dataset: Path, edit: Callable[[Document], object]) -> None:
    change(dataset / "croissant.json", edit)
    assert find_problems(dataset) == ["croissant.json: does not match the plan and the records"]


@pytest.mark.parametrize(
    "name", ["README.md", "croissant.json", "schema.json", "sizes.json", "classes.json", "failures.jsonl"]
)
def test_a_missing_file_is_reported(dataset: Path, name: str) -> None:
    (dataset / name).unlink()
    assert find_problems(dataset) == [f"{name} is missing"]


@pytest.mark.parametrize("name", ["croissant.json", "schema.json", "sizes.json", "classes.json", "failures.jsonl"])
@pytest.mark.parametrize("content", ["[]", "7", '{"cut sho', ""], ids=["list", "number", "truncated", "empty"])
def test_a_damaged_file_is_reported(dataset: Path, name: str, content: str) -> None:
    write(dataset / name, content)
    assert find_problems(dataset) == [f"{name}: does not match the plan and the records"]


def test_a_changed_manifest_is_reported_with_the_differing_fields(dataset: Path) -> None:
    change(dataset / "manifest.json", lambda manifest: manifest.update(written=5, bytes=1))
    assert find_problems(dataset) == ["manifest.json: does not match the records: written, bytes"]
