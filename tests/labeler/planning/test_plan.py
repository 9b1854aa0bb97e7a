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
from common.sources.listing import SCHEMA, ImageRef, Listing
from common.sources.local import LocalSource
from common.storage import LocalStorage
from labeler.config import LabelSettings
from labeler.planning.generations import read_plans, save_first_plan
from labeler.planning.listing import ListingReader, PlannedImage, listing_checksum, planned_images, read_listing
from labeler.planning.plan import make_plan

TEACHER = Teacher(name="mine", sha256="a" * 64)
URIS = [f"n{index % 3:02d}/{index:03d}.jpg" for index in range(25)]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "data")


def listing(uris: list[str], sizes: dict[str, int] | None = None, skipped: dict[str, int] | None = None) -> Listing:
    """As a source gives it."""
    rows = [
        {"uri": uri, "size": (sizes or {}).get(uri, 1000 + len(uri)), "container": None, "offset": 0}
        for uri in sorted(uris)
    ]
    return Listing(pa.Table.from_pylist(rows, schema=SCHEMA), Counter(skipped))


def config(**changes: Any) -> dict[str, Any]:
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in changes.items()]
    return load_settings(LabelSettings, arguments).label_config()


def planned(uris: list[str] = URIS, teacher: Teacher = TEACHER, sizes: dict[str, int] | None = None, **changes: Any):
    return make_plan(listing(uris, sizes), config(**changes), teacher, "images")


def refusal(storage: LocalStorage, plan: Plan, table: pa.Table) -> str:
    """What keep_first_plan says to a plan that is not the one that was kept, which stays."""
    before = storage.read(PLAN), storage.read(LISTING)
    with pytest.raises(UserError) as error:
        save_first_plan(storage, plan, table)
    assert (storage.read(PLAN), storage.read(LISTING)) == before
    return str(error.value)


@given(st.integers(1, 200), st.integers(1, 60))
def test_shards_are_even_to_within_one_and_not_larger_than_asked(images: int, samples_per_shard: int) -> None:
    plan, table = planned([f"{index}.jpg" for index in range(images)], samples_per_shard=samples_per_shard)
    sizes = Counter(table["shard"].to_pylist())
    assert sorted(sizes) == list(range(plan.shards))
    assert [sizes[shard] for shard in range(plan.shards)] == plan.shard_sizes()
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert max(sizes.values()) <= samples_per_shard
    assert plan.shards == -(-images // samples_per_shard)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_every_image_is_planned_once_at_a_place_of_its_own(images: int, samples_per_shard: int, seed: int) -> None:
    uris = [f"{index}.jpg" for index in range(images)]
    plan, table = planned(uris, samples_per_shard=samples_per_shard, seed=seed)
    assert sorted(table["uri"].to_pylist()) == sorted(uris)
    places = list(zip(table["shard"].to_pylist(), table["index"].to_pylist(), strict=True))
    assert places == [(shard, index) for shard, size in enumerate(plan.shard_sizes()) for index in range(size)]
    assert plan.images == images


def test_keys_are_nine_digits_in_the_plans_order() -> None:
    _, table = planned()
    assert table["key"].to_pylist() == [f"{index:09d}" for index in range(25)]


def test_the_same_seed_gives_the_same_plan() -> None:
    (first, first_table), (second, second_table) = planned(seed=5), planned(seed=5)
    assert first == second
    assert first_table.equals(second_table)


def test_another_seed_deals_otherwise() -> None:
    (first, first_table), (second, second_table) = planned(seed=5), planned(seed=6)
    assert first_table["uri"].to_pylist() != second_table["uri"].to_pylist()
    assert first.fingerprint != second.fingerprint


def test_the_order_is_that_of_numpys_frozen_generator() -> None:
    order = np.random.RandomState(3).permutation(len(URIS))
    assert planned(seed=3)[1]["uri"].to_pylist() == [sorted(URIS)[position] for position in order]


def test_a_limit_draws_some_of_all_images() -> None:
    plan, table = planned(limit=7, samples_per_shard=3)
    _, whole = planned()
    assert table["uri"].to_pylist() == whole["uri"].to_pylist()[:7]
    assert (plan.images, plan.shards, plan.shard_sizes()) == (7, 3, [3, 2, 2])
    assert plan.bytes == sum(table["size"].to_pylist())


def test_a_limit_above_the_number_of_images_changes_nothing_about_them() -> None:
    assert planned(limit=1000)[1].equals(planned()[1])


def test_classes_are_the_sorted_parent_folders() -> None:
    plan, table = planned(["b/x.jpg", "train/a/y.jpg", "c.tar/z.jpg", "b/w.jpg"])
    assert plan.classes == ["a", "b", "c"]
    classes = dict(zip(table["uri"].to_pylist(), table["class"].to_pylist(), strict=True))
    assert classes == {"b/w.jpg": 1, "b/x.jpg": 1, "c.tar/z.jpg": 2, "train/a/y.jpg": 0}


def test_there_are_no_classes_where_an_image_lies_outside_of_the_folders() -> None:
    plan, table = planned([*URIS, "outside.jpg"])
    assert plan.classes is None
    assert set(table["class"].to_pylist()) == {None}


def test_a_limit_does_not_change_the_class_indices() -> None:
    limited, table = planned(limit=4)
    whole, whole_table = planned()
    assert limited.classes == whole.classes == ["n00", "n01", "n02"]
    assert table["class"].to_pylist() == whole_table["class"].to_pylist()[:4]


def test_the_plan_tells_what_was_given() -> None:
    plan, _ = planned(samples_per_shard=10)
    assert (plan.input, plan.teacher, plan.config.samples_per_shard) == ("images", TEACHER, 10)
    assert plan.bytes == sum(1000 + len(uri) for uri in URIS)


def test_no_images_is_a_user_error_that_says_what_was_found() -> None:
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
def test_the_fingerprint_changes_with_whatever_decides_the_bytes(changed: dict[str, Any]) -> None:
    assert planned(**changed)[0].fingerprint != planned()[0].fingerprint


def test_the_fingerprint_changes_with_the_classes_of_images_that_are_not_drawn() -> None:
    (few, table), (more, more_table) = (planned(uris, limit=1) for uris in (["b/y.jpg"], ["a/x.jpg", "b/y.jpg"]))
    assert table["uri"].to_pylist() == more_table["uri"].to_pylist() == ["b/y.jpg"]
    assert table["class"].to_pylist() != more_table["class"].to_pylist()
    assert few.fingerprint != more.fingerprint


def test_the_fingerprint_does_not_know_the_name_of_the_input() -> None:
    other, _ = make_plan(listing(URIS), config(), TEACHER, "/mnt/elsewhere")
    assert other.fingerprint == planned()[0].fingerprint


@given(st.lists(st.integers(1, 24), max_size=4))
def test_the_listings_checksum_does_not_depend_on_how_the_table_is_cut(cuts: list[int]) -> None:
    _, table = planned()
    edges = sorted({0, 25, *cuts})
    pieces = [table.slice(start, end - start) for start, end in itertools.pairwise(edges)]
    assert listing_checksum(pa.concat_tables(pieces)) == listing_checksum(table)


def test_the_listings_checksum_tells_names_apart_at_their_borders() -> None:
    assert (
        planned(["ab.jpg", "c.jpg"], seed=0)[0].listing_sha256 != planned(["a.jpg", "bc.jpg"], seed=0)[0].listing_sha256
    )


def test_a_kept_plan_and_listing_read_back(storage: LocalStorage) -> None:
    plan, table = planned(samples_per_shard=4)
    save_first_plan(storage, plan, table)
    assert read_plans(storage) == [plan]
    kept = read_listing(storage, read_plans(storage)[0])
    assert kept.to_pylist() == table.to_pylist()
    assert listing_checksum(kept) == plan.listing_sha256


def test_each_shard_reads_back_its_rows_of_the_listing(storage: LocalStorage) -> None:
    plan, table = planned(samples_per_shard=4)
    save_first_plan(storage, plan, table)
    shards = [ListingReader(storage, plan).shard(shard) for shard in range(plan.shards)]
    assert [len(shard) for shard in shards] == plan.shard_sizes()
    assert [image for shard in shards for image in shard] == planned_images(table)
    with storage.open(LISTING) as file:
        assert pq.ParquetFile(file).num_row_groups == plan.shards


def test_planned_images_of_a_tar_know_their_place(tmp_path: Path, shared_data: Path, storage: LocalStorage) -> None:
    source = LocalSource(shared_data / "cifar10-test.tar")
    plan, table = make_plan(source.list(), config(limit=5), TEACHER, "cifar10-test.tar")
    save_first_plan(storage, plan, table)
    for image in ListingReader(storage, plan).shard(0):
        assert source.read(image.ref).startswith(b"\xff\xd8")
        assert plan.classes is not None
        assert image.class_index == plan.classes.index(image.ref.uri.split("/")[-2])


def test_a_planned_image_has_no_class_where_the_input_has_none(storage: LocalStorage) -> None:
    plan, table = planned(["x.jpg"])
    save_first_plan(storage, plan, table)
    assert ListingReader(storage, plan).shard(0) == [PlannedImage("000000000", ImageRef("x.jpg", 1005, None, 0), None)]


def test_keeping_the_same_plan_again_changes_nothing(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    before = storage.read(PLAN), storage.read(LISTING)
    save_first_plan(storage, *planned())
    assert (storage.read(PLAN), storage.read(LISTING)) == before


def test_a_lost_listing_is_written_anew_with_the_same_bytes(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    before = storage.read(LISTING)
    (storage.root / LISTING).unlink()
    save_first_plan(storage, *planned())
    assert storage.read(LISTING) == before


def test_a_changed_setting_is_refused_by_name(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    message = refusal(storage, *planned(map_size=32, seed=1))
    assert "map_size was 224, is 32" in message
    assert "seed was 0, is 1" in message
    assert "another --output" in message


def test_another_teacher_is_refused_by_name(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    message = refusal(storage, *planned(teacher=Teacher(name="other", sha256="b" * 64)))
    assert "the teacher was mine@aaaaaaaaaaaa, is other@bbbbbbbbbbbb" in message


def test_a_new_image_is_refused_by_name(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    assert "1 new (first: n00/new.jpg)" in refusal(storage, *planned([*URIS, "n00/new.jpg"]))


def test_a_removed_image_is_refused_by_name(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    assert f"2 gone (first: {URIS[0]})" in refusal(storage, *planned([u for u in URIS if u not in (URIS[0], URIS[3])]))


def test_an_image_of_another_size_is_refused_by_name(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    message = refusal(storage, *planned(sizes={URIS[7]: 1}))
    assert f"1 of another size (first: {URIS[7]})" in message
    assert "gone" not in message
    assert "new (" not in message


def test_images_at_other_places_in_a_tar_are_refused(storage: LocalStorage) -> None:
    plan, table = planned()
    save_first_plan(storage, plan, table)
    moved = listing(URIS)
    moved = moved._replace(table=moved.table.set_column(3, "offset", pa.array([512] * 25)))
    assert "at other places in their tars" in refusal(storage, *make_plan(moved, config(), TEACHER, "images"))


def test_a_changed_input_is_a_user_error_too_where_the_listing_is_lost(storage: LocalStorage) -> None:
    save_first_plan(storage, *planned())
    (storage.root / LISTING).unlink()
    with pytest.raises(UserError, match="planned differently"):
        save_first_plan(storage, *planned(URIS[1:]))


def test_no_plan_is_a_user_error(storage: LocalStorage) -> None:
    with pytest.raises(UserError, match=r"plan\.json"):
        read_plans(storage)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"schema_version": "9.9"}', b"null"],
    ids=lambda content: str(content),
)
def test_a_damaged_plan_is_a_user_error(storage: LocalStorage, content: bytes) -> None:
    storage.put(PLAN, content)
    with pytest.raises(UserError, match=r"plan\.json is damaged or of another version"):
        read_plans(storage)
    with pytest.raises(UserError, match=r"plan\.json is damaged or of another version"):
        save_first_plan(storage, *planned())


def test_a_plan_of_another_version_or_with_unknown_keys_is_a_user_error(storage: LocalStorage) -> None:
    content = planned()[0].to_json()
    for changed in (content.replace(b'"1.0"', b'"2.0"'), content.replace(b'"images":', b'"pictures":')):
        storage.replace(PLAN, changed)
        with pytest.raises(UserError, match="damaged or of another version"):
            read_plans(storage)
