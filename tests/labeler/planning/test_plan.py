"""Tests of the plan and its listing: distribution to shards, fingerprints, and comparison with a stored plan."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.manifest import LISTING, PLAN, Plan, Teacher
from common.settings import load_settings
from common.sources.listing import LISTING_SCHEMA, ImageRef, Listing
from common.sources.local import LocalSource
from common.storage import LocalStorage
from labeler.config import LabelSettings
from labeler.planning.generations import read_plans, save_first_plan
from labeler.planning.listing import ListingReader, PlannedImage, listing_checksum, read_listing, to_planned_images
from labeler.planning.plan import make_plan

TEACHER = Teacher(name="mine", sha256="a" * 64)
URIS = [f"n{index % 3:02d}/{index:03d}.jpg" for index in range(25)]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "data")


def listing(uris: list[str], sizes: dict[str, int] | None = None, skipped: dict[str, int] | None = None) -> Listing:
    """Return a listing as a source would, with sizes that depend on the names unless given."""
    rows = [
        {"uri": uri, "size": (sizes or {}).get(uri, 1000 + len(uri)), "container": None, "offset": 0}
        for uri in sorted(uris)
    ]
    return Listing(pa.Table.from_pylist(rows, schema=LISTING_SCHEMA), Counter(skipped))


def config(**changes: Any) -> dict[str, Any]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in changes.items()]
    return load_settings(LabelSettings, arguments).label_config()


def plan_images(
    uris: list[str] = URIS, teacher: Teacher = TEACHER, sizes: dict[str, int] | None = None, **changes: Any
):
    return make_plan(listing(uris, sizes), config(**changes), teacher, "images")


def refused_plan_error(storage: LocalStorage, plan: Plan, table: pa.Table) -> str:
    """Return the error message for a plan that differs from the stored one, which must not change."""
    before = storage.read(PLAN), storage.read(LISTING)
    with pytest.raises(UserError) as error:
        save_first_plan(storage, plan, table)
    assert (storage.read(PLAN), storage.read(LISTING)) == before
    return str(error.value)


@given(st.integers(1, 200), st.integers(1, 60))
def test_shard_sizes_differ_by_at_most_one_and_respect_the_maximum(images: int, samples_per_shard: int) -> None:
    plan, table = plan_images([f"{index}.jpg" for index in range(images)], samples_per_shard=samples_per_shard)
    sizes = Counter(table["shard"].to_pylist())
    assert sorted(sizes) == list(range(plan.shards))
    assert [sizes[shard] for shard in range(plan.shards)] == plan.shard_sizes()
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert max(sizes.values()) <= samples_per_shard
    assert plan.shards == -(-images // samples_per_shard)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_every_image_is_planned_exactly_once(images: int, samples_per_shard: int, seed: int) -> None:
    uris = [f"{index}.jpg" for index in range(images)]
    plan, table = plan_images(uris, samples_per_shard=samples_per_shard, seed=seed)
    assert sorted(table["uri"].to_pylist()) == sorted(uris)
    positions = list(zip(table["shard"].to_pylist(), table["index"].to_pylist(), strict=True))
    assert positions == [(shard, index) for shard, size in enumerate(plan.shard_sizes()) for index in range(size)]
    assert plan.images == images


def test_keys_are_nine_digit_numbers_in_plan_order() -> None:
    _, table = plan_images()
    assert table["key"].to_pylist() == [f"{index:09d}" for index in range(25)]


def test_plan_of_these_images_has_this_fingerprint() -> None:
    """Earlier versions computed it; with another one, data sets that they planned could not be resumed."""
    plan, _ = plan_images()
    assert plan.listing_sha256 == "7b9192953a5186d0807463069f4b5e8d85d63dd641a9623cc58ce791106fe910"
    assert plan.fingerprint == "c52b7aec2c43175651e4de4214d96111070457518d47cdefd2211b22a7048157"


def test_different_seed_gives_different_order() -> None:
    (first, first_table), (second, second_table) = plan_images(seed=5), plan_images(seed=6)
    assert first_table["uri"].to_pylist() != second_table["uri"].to_pylist()
    assert first.fingerprint != second.fingerprint


def test_order_is_that_of_numpy_random_state() -> None:
    order = np.random.RandomState(3).permutation(len(URIS))
    assert plan_images(seed=3)[1]["uri"].to_pylist() == [sorted(URIS)[position] for position in order]


def test_limit_plans_the_first_images_of_the_shuffled_order() -> None:
    plan, table = plan_images(limit=7, samples_per_shard=3)
    _, whole = plan_images()
    assert table["uri"].to_pylist() == whole["uri"].to_pylist()[:7]
    assert (plan.images, plan.shards, plan.shard_sizes()) == (7, 3, [3, 2, 2])
    assert plan.bytes == sum(table["size"].to_pylist())


def test_limit_above_number_of_images_has_no_effect() -> None:
    assert plan_images(limit=1000)[1].equals(plan_images()[1])


def test_classes_are_sorted_parent_folders() -> None:
    plan, table = plan_images(["b/x.jpg", "train/a/y.jpg", "c.tar/z.jpg", "b/w.jpg"])
    assert plan.classes == ["a", "b", "c"]
    classes = dict(zip(table["uri"].to_pylist(), table["class"].to_pylist(), strict=True))
    assert classes == {"b/w.jpg": 1, "b/x.jpg": 1, "c.tar/z.jpg": 2, "train/a/y.jpg": 0}


def test_no_classes_if_an_image_is_outside_of_class_folders() -> None:
    plan, table = plan_images([*URIS, "outside.jpg"])
    assert plan.classes is None
    assert set(table["class"].to_pylist()) == {None}


def test_limit_does_not_change_class_indices() -> None:
    limited, table = plan_images(limit=4)
    whole, whole_table = plan_images()
    assert limited.classes == whole.classes == ["n00", "n01", "n02"]
    assert table["class"].to_pylist() == whole_table["class"].to_pylist()[:4]


def test_plan_records_its_inputs() -> None:
    plan, _ = plan_images(samples_per_shard=10)
    assert (plan.input, plan.teacher, plan.config.samples_per_shard) == ("images", TEACHER, 10)
    assert plan.bytes == sum(1000 + len(uri) for uri in URIS)


def test_empty_listing_raises_error_that_counts_other_files() -> None:
    with pytest.raises(UserError, match=r"--input images: no images found \(looked for .*\.jpg.*; found 3 \.heic"):
        make_plan(listing([], skipped={".heic": 3}), config(), TEACHER, "images")


@pytest.mark.parametrize(
    "changed",
    [
        {"map_size": 32},
        {"gaze_threshold": 0.3},
        {"limit": 24},
        {"teacher": Teacher(name="mine", sha256="b" * 64)},
        {"uris": URIS[1:]},
        {"sizes": {URIS[0]: 5}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_fingerprint_depends_on_everything_that_determines_the_bytes(changed: dict[str, Any]) -> None:
    assert plan_images(**changed)[0].fingerprint != plan_images()[0].fingerprint


def test_fingerprint_depends_on_classes_of_images_beyond_the_limit() -> None:
    (few, table), (more, more_table) = (plan_images(uris, limit=1) for uris in (["b/y.jpg"], ["a/x.jpg", "b/y.jpg"]))
    assert table["uri"].to_pylist() == more_table["uri"].to_pylist() == ["b/y.jpg"]
    assert table["class"].to_pylist() != more_table["class"].to_pylist()
    assert few.fingerprint != more.fingerprint


def test_fingerprint_does_not_depend_on_input_location() -> None:
    other, _ = make_plan(listing(URIS), config(), TEACHER, "/mnt/elsewhere")
    assert other.fingerprint == plan_images()[0].fingerprint


@given(st.lists(st.integers(1, 24), max_size=4))
def test_listing_checksum_does_not_depend_on_table_chunks(cuts: list[int]) -> None:
    _, table = plan_images()
    edges = sorted({0, 25, *cuts})
    pieces = [table.slice(start, end - start) for start, end in itertools.pairwise(edges)]
    assert listing_checksum(pa.concat_tables(pieces)) == listing_checksum(table)


def test_listing_checksum_depends_on_boundaries_between_names() -> None:
    assert (
        plan_images(["ab.jpg", "c.jpg"], seed=0)[0].listing_sha256
        != plan_images(["a.jpg", "bc.jpg"], seed=0)[0].listing_sha256
    )


def test_saved_plan_and_listing_read_back(storage: LocalStorage) -> None:
    plan, table = plan_images(samples_per_shard=4)
    save_first_plan(storage, plan, table)
    assert read_plans(storage) == [plan]
    stored = read_listing(storage, read_plans(storage)[0])
    assert stored.to_pylist() == table.to_pylist()
    assert listing_checksum(stored) == plan.listing_sha256


def test_listing_reader_returns_the_rows_of_each_shard(storage: LocalStorage) -> None:
    plan, table = plan_images(samples_per_shard=4)
    save_first_plan(storage, plan, table)
    shards = [ListingReader(storage, plan).shard(shard) for shard in range(plan.shards)]
    assert [len(shard) for shard in shards] == plan.shard_sizes()
    assert [image for shard in shards for image in shard] == to_planned_images(table)
    with storage.open(LISTING) as file:
        assert pq.ParquetFile(file).num_row_groups == plan.shards


def test_planned_images_of_a_tar_can_be_read(tmp_path: Path, shared_data: Path, storage: LocalStorage) -> None:
    source = LocalSource(shared_data / "cifar10-test.tar")
    plan, table = make_plan(source.list(), config(limit=5), TEACHER, "cifar10-test.tar")
    save_first_plan(storage, plan, table)
    for image in ListingReader(storage, plan).shard(0):
        assert source.read(image.ref).startswith(b"\xff\xd8")
        assert plan.classes is not None
        assert image.class_index == plan.classes.index(image.ref.uri.split("/")[-2])


def test_planned_image_has_no_class_without_class_folders(storage: LocalStorage) -> None:
    plan, table = plan_images(["x.jpg"])
    save_first_plan(storage, plan, table)
    assert ListingReader(storage, plan).shard(0) == [PlannedImage("000000000", ImageRef("x.jpg", 1005, None, 0), None)]


def test_saving_the_same_plan_again_changes_nothing(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    before = storage.read(PLAN), storage.read(LISTING)
    save_first_plan(storage, *plan_images())
    assert (storage.read(PLAN), storage.read(LISTING)) == before


def test_lost_listing_is_rewritten_with_the_same_bytes(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    before = storage.read(LISTING)
    (storage.root / LISTING).unlink()
    save_first_plan(storage, *plan_images())
    assert storage.read(LISTING) == before


def test_changed_settings_are_named_in_the_error(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    message = refused_plan_error(storage, *plan_images(map_size=32, seed=1))
    assert "map_size was 224, is 32" in message
    assert "seed was 0, is 1" in message
    assert "another --output" in message


def test_changed_teacher_is_named_in_the_error(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    message = refused_plan_error(storage, *plan_images(teacher=Teacher(name="other", sha256="b" * 64)))
    assert "the teacher was mine@aaaaaaaaaaaa, is other@bbbbbbbbbbbb" in message


def test_new_image_is_named_in_the_error(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    assert "1 new (first: n00/new.jpg)" in refused_plan_error(storage, *plan_images([*URIS, "n00/new.jpg"]))


def test_removed_images_are_counted_in_the_error(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    assert f"2 gone (first: {URIS[0]})" in refused_plan_error(
        storage, *plan_images([u for u in URIS if u not in (URIS[0], URIS[3])])
    )


def test_image_of_another_size_is_named_in_the_error(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    message = refused_plan_error(storage, *plan_images(sizes={URIS[7]: 1}))
    assert f"1 of another size (first: {URIS[7]})" in message
    assert "gone" not in message
    assert "new (" not in message


def test_changed_offsets_in_a_tar_raise_error(storage: LocalStorage) -> None:
    plan, table = plan_images()
    save_first_plan(storage, plan, table)
    moved = listing(URIS)
    moved = moved._replace(table=moved.table.set_column(3, "offset", pa.array([512] * 25)))
    assert "at other offsets in their tar files" in refused_plan_error(
        storage, *make_plan(moved, config(), TEACHER, "images")
    )


def test_changed_input_raises_error_if_the_listing_is_lost(storage: LocalStorage) -> None:
    save_first_plan(storage, *plan_images())
    (storage.root / LISTING).unlink()
    with pytest.raises(UserError, match="planned differently"):
        save_first_plan(storage, *plan_images(URIS[1:]))


def test_missing_plan_raises_error(storage: LocalStorage) -> None:
    with pytest.raises(UserError, match=r"plan\.json"):
        read_plans(storage)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"schema_version": "9.9"}', b"null"],
    ids=lambda content: str(content),
)
def test_damaged_plan_raises_error(storage: LocalStorage, content: bytes) -> None:
    storage.put(PLAN, content)
    with pytest.raises(UserError, match=r"plan\.json is damaged or of another version"):
        read_plans(storage)
    with pytest.raises(UserError, match=r"plan\.json is damaged or of another version"):
        save_first_plan(storage, *plan_images())


def test_plan_of_another_version_or_with_unknown_keys_raises_error(storage: LocalStorage) -> None:
    content = plan_images()[0].to_json()
    for changed in (content.replace(b'"1.0"', b'"2.0"'), content.replace(b'"images":', b'"pictures":')):
        storage.replace(PLAN, changed)
        with pytest.raises(UserError, match="damaged or of another version"):
            read_plans(storage)
