"""Tests of labeled data sets as inputs: only their photographs are listed, under the names that they had at first."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from common.errors import UserError
from common.sources import open_source
from common.sources.listing import ImageRef
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.planning.generations import save_first_plan
from labeler.planning.plan import make_plan
from labeler.publishing.publish import publish
from labeler.teacher.weights import CustomTeacher
from labeler.verification.verify_dataset import verify_dataset
from tests.support.data.pictures import encoded, photograph, write
from tests.support.jobs import TEACHER, members, photographs, shard_labeler
from tests.support.labeled import make_dataset
from tests.support.simple_teachers import Brightness

IMAGES, PER_SHARD = 11, 4
FIRST = "train-000000.tar"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in three class folders; one of them is a PNG, which shards hold as JPEG."""
    folder = photographs(tmp_path_factory.mktemp("images"), IMAGES - 1, classes=3)
    return write(folder, {"class1/last.png": encoded(photograph(64, 48), "PNG")})


@pytest.fixture(scope="module")
def dataset(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(images, tmp_path_factory.mktemp("dataset") / "out", samples_per_shard=PER_SHARD)


def uris(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def list_refs(location: Path | str) -> list[ImageRef]:
    return [ImageRef(**row) for row in open_source(str(location)).list().table.to_pylist()]


def read_stored(dataset: Path) -> dict[str, bytes]:
    """Return the JPEGs of a data set by the source that their json names, read with tarfile."""
    files = {name: content for tar in sorted(dataset.glob("*.tar")) for name, content in members(tar).items()}
    return {
        json.loads(content)["source"]: files[name.replace(".json", ".jpg")]
        for name, content in files.items()
        if name.endswith(".json")
    }


def test_photographs_of_a_data_set_have_their_first_names_and_nothing_else_is_listed(
    images: Path, dataset: Path
) -> None:
    (dataset / "preview.html").write_text("a page")
    source = open_source(str(dataset))
    listing = source.list()
    assert listing.table["uri"].to_pylist() == uris(images)
    assert {ref.uri: source.read(ref) for ref in list_refs(dataset)} == read_stored(dataset)
    assert listing.skipped["label files in shards"] == 4 * IMAGES
    assert listing.skipped[".html"] == 1
    assert not listing.skipped[".png"]


def test_single_shard_and_tar_of_shards_are_recognized(images: Path, dataset: Path, tmp_path: Path) -> None:
    names = {json.loads(content)["source"] for name, content in members(dataset / FIRST).items() if "json" in name}
    assert {ref.uri for ref in list_refs(dataset / FIRST)} == names
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(dataset, arcname="dataset")
    assert [ref.uri for ref in list_refs(tmp_path / "all.tar")] == [f"dataset/{uri}" for uri in uris(images)]


@pytest.mark.parametrize("options", [["--sort=name"], ["--sort=name", "--format=pax"]])
def test_shards_packed_again_by_other_tools_are_recognized(
    options: list[str], images: Path, dataset: Path, tmp_path: Path
) -> None:
    """Another order of the files, names that begin with "./", and headers for folders."""
    (tmp_path / "input").mkdir()
    for shard in sorted(dataset.glob("*.tar")):
        folder = tmp_path / shard.stem
        folder.mkdir()
        subprocess.run(["tar", "-xf", shard, "-C", folder], check=True)
        line = ["tar", *options, "-cf", tmp_path / "input" / shard.name, "-C", folder, "."]
        subprocess.run(line, check=True)
    source = open_source(str(tmp_path / "input"))
    assert source.list().table["uri"].to_pylist() == uris(images)
    assert {ref.uri: source.read(ref) for ref in list_refs(tmp_path / "input")} == read_stored(dataset)


def test_two_data_sets_in_one_folder_are_told_apart(images: Path, dataset: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).symlink_to(dataset)
    expected = [f"{name}/{uri}" for name in ("one", "two") for uri in uris(images)]
    assert [ref.uri for ref in list_refs(tmp_path)] == expected


def test_data_set_next_to_its_own_photographs_is_a_user_error(images: Path, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "class0").symlink_to(images / "class0")
    (tmp_path / FIRST).symlink_to(dataset / FIRST)
    with pytest.raises(UserError, match=r"class0/photo\d+\.jpg is in this input more than once"):
        list_refs(tmp_path)


@pytest.mark.parametrize("content", [b"no json", b"[]", b"{}", b'{"source": 3}', b'{"source": ""}', None])
def test_shard_without_the_source_of_a_photograph_is_a_user_error(
    content: bytes | None, dataset: Path, tmp_path: Path
) -> None:
    files = members(dataset / FIRST)
    damaged = [name for name in files if name.endswith(".json")][-1]
    files = {name: files[name] if name != damaged else content for name in files if name != damaged or content}
    with tarfile.open(tmp_path / FIRST, "w") as tar:
        for name in files:
            (tmp_path / name).write_bytes(files[name])
            tar.add(tmp_path / name, arcname=name)
    with pytest.raises(UserError, match=rf"{FIRST}: sample {damaged[:9]}: expected a json file that names the source"):
        list_refs(tmp_path / FIRST)


def test_label_only_data_set_has_no_photographs(images: Path, tmp_path: Path) -> None:
    dataset = make_dataset(images, tmp_path / "labels", include_images=False)
    listing = open_source(str(dataset)).list()
    assert listing.table.num_rows == 0
    assert listing.skipped["label files in shards"] == 4 * IMAGES


def test_tar_of_another_data_set_with_json_files_is_an_ordinary_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name in ("000.jpg", "000.json", "000.txt", "001.jpg", "001.json", "001.txt"):
            (tmp_path / name).write_bytes(b'{"source": "elsewhere"}')
            tar.add(tmp_path / name, arcname=name)
    assert [ref.uri for ref in list_refs(tmp_path / "00000.tar")] == ["000.jpg", "001.jpg"]


@pytest.mark.parametrize("classes", [3, 0], ids=["classes", "no classes"])
def test_labeling_again_gives_the_same_keys_classes_and_photographs(classes: int, tmp_path: Path) -> None:
    config = {"samples_per_shard": PER_SHARD, "map_size": 32, "seed": 3}
    images = photographs(tmp_path / "images", IMAGES, classes)
    first = make_dataset(images, tmp_path / "first", **config)
    second = tmp_path / "second"
    plan, table = make_plan(open_source(str(first)).list(), LabelConfig(**config), TEACHER, str(first))
    save_first_plan(LocalStorage(second), plan, table)
    labeler = shard_labeler(plan, second, CustomTeacher(Brightness()))
    for shard in plan.shard_indices:
        labeler.label(shard)
    assert publish(LocalStorage(second), [plan], max_bad_fraction=0)[1]
    assert verify_dataset(str(second), workers=1)["problems"] == []
    for tar in sorted(first.glob("*.tar")):
        before, after = members(tar), members(second / tar.name)
        assert list(before) == list(after)
        for name in before:
            if name.endswith((".jpg", ".cls")):
                assert before[name] == after[name]
            if name.endswith(".json"):
                kept = ("source", "wnid", "source_sha256", "width", "height")
                assert [json.loads(before[name])[key] for key in kept] == [json.loads(after[name])[key] for key in kept]
        assert any(before[name] != after[name] for name in before if name.endswith(".attn.png"))
    if classes:
        assert (first / "classes.json").read_bytes() == (second / "classes.json").read_bytes()
    else:
        assert plan.classes is None
