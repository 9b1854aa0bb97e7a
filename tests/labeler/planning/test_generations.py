"""Tests of later generations of a data set: images that are retried, and images that are appended."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from common.errors import Reason, UserError
from common.manifest import Manifest, Plan, sha256
from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelSettings
from labeler.planning.generations import (
    check_compatible,
    is_complete,
    read_plans,
    read_published_generation,
    save_later_plan,
    select_uris,
)
from labeler.planning.listing import ListingReader
from labeler.planning.plan import make_plan
from labeler.planning.planner import plan_input, plan_retries
from labeler.publishing.outcome import compute_outcome, find_unretried, read_records
from labeler.publishing.publish import publish
from labeler.verify import verify_dataset
from tests.support.data.pictures import jpeg
from tests.support.jobs import TEACHER, checksums, failures, members, photographs, planned, shard_labeler

TRUNCATED_URIS = ["class0/photo004.jpg", "class1/photo007.jpg"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve photographs in two class folders, two of them truncated."""
    folder = photographs(tmp_path / "images", 12, classes=2)
    for uri in TRUNCATED_URIS:
        (folder / uri).write_bytes((folder / uri).read_bytes()[:300])
    return folder


@pytest.fixture
def output(images: Path, tmp_path: Path) -> Path:
    """The published data set of these images, in which the two are missing."""
    folder = tmp_path / "out"
    plan = planned(images, folder, samples_per_shard=5)
    label_shards(folder, plan)
    assert publish(LocalStorage(folder), [plan], 1)[1]
    return folder


def label_shards(output: Path, plan: Plan) -> None:
    labeler = shard_labeler(plan, output)
    for shard in plan.shard_indices:
        labeler.label(shard)


def repair(images: Path, uri: str) -> None:
    (images / uri).write_bytes(jpeg(90, 70, seed=5))


def plan_retry(output: Path) -> Plan:
    """Plan the failed images as a further generation, as `labeler.retry` does."""
    storage = LocalStorage(output)
    plans = read_plans(storage)
    return plan_retries(storage, plans, find_unretried(storage, plans, read_records(storage, plans)))[-1]


def plan_appended(output: Path, images: Path, samples_per_shard: int = 5, **settings: int) -> Plan:
    """Plan the new images as a further generation, as `labeler.run --append` does. Returns the last plan."""
    settings = LabelSettings(input=str(images), append=True, samples_per_shard=samples_per_shard, **settings)
    return plan_input(settings, LocalStorage(output), open_source(str(images)).list(), TEACHER)[-1]


def shard_checksums(output: Path) -> dict[str, str]:
    return {name: checksum for name, checksum in checksums(output).items() if name.endswith(".tar")}


def assert_valid(output: Path, complete: bool = True) -> None:
    report = verify_dataset(str(output), workers=1)
    assert (report["problems"], report["complete"]) == ([], complete)


def test_shards_and_keys_of_a_later_generation_continue_the_numbering(output: Path, images: Path) -> None:
    plan = plan_retry(output)
    assert (plan.generation, plan.first_shard, plan.first_image, plan.images) == (1, 3, 12, 2)
    assert plan.parent == read_plans(LocalStorage(output))[0].fingerprint
    assert (output / "plan-0001.json").exists()
    planned_images = ListingReader(LocalStorage(output), plan).shard(3)
    assert [image.key for image in planned_images] == ["000000012", "000000013"]
    assert sorted(image.ref.uri for image in planned_images) == TRUNCATED_URIS


def test_retry_removes_repaired_images_from_failures_and_changes_no_shard(output: Path, images: Path) -> None:
    before = shard_checksums(output)
    first = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    repair(images, TRUNCATED_URIS[0])
    label_shards(output, plan_retry(output))
    storage = LocalStorage(output)
    outcome, published = publish(storage, read_plans(storage), 1)
    assert published
    assert (outcome.planned, outcome.written) == (12, 11)
    assert failures(output) == {TRUNCATED_URIS[1]: "truncated"}
    assert before.items() <= shard_checksums(output).items()
    assert_valid(output)
    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    assert (manifest.generation, manifest.parent) == (1, sha256(first.to_json()))
    assert (manifest.planned, manifest.written, manifest.failed) == (12, 11, 1)
    assert [shard.samples for shard in manifest.shards][-1] == 1
    assert [shard.name for shard in manifest.shards] == sorted(shard_checksums(output))
    (info,) = [json.loads(c) for name, c in members(output / "train-000003.tar").items() if name.endswith("json")]
    assert info["source"] == TRUNCATED_URIS[0]


def test_images_that_failed_again_can_be_retried_once_more(output: Path, images: Path) -> None:
    label_shards(output, plan_retry(output))
    repair(images, TRUNCATED_URIS[0])
    repair(images, TRUNCATED_URIS[1])
    label_shards(output, plan_retry(output))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    assert [plan.first_shard for plan in plans] == [0, 3, 4]
    assert publish(storage, plans, 0)[1]
    assert failures(output) == {}
    assert find_unretried(storage, plans, read_records(storage, plans)) == {}
    assert_valid(output)


def test_unfinished_generation_does_not_change_the_published_one(output: Path, images: Path) -> None:
    before = checksums(output)
    plan = plan_retry(output)
    storage = LocalStorage(output)
    outcome, published = publish(storage, read_plans(storage), 1)
    assert not published
    assert outcome.unfinished == [3]
    assert before.items() <= checksums(output).items()
    assert_valid(output, complete=False)
    assert find_unretried(storage, read_plans(storage), read_records(storage, [plan])) == {}


def test_appended_images_and_classes_do_not_change_existing_ones(output: Path, images: Path) -> None:
    before = shard_checksums(output)
    photographs(images / "class00", 3)
    (images / "class1/another.jpg").write_bytes(jpeg(64, 64))
    plan = plan_appended(output, images)
    assert plan.classes == ["class0", "class1", "class00"], "existing class indices do not change"
    assert (plan.images, plan.shards) == (4, 1)
    label_shards(output, plan)
    storage = LocalStorage(output)
    outcome, published = publish(storage, read_plans(storage), 1)
    assert published
    assert (outcome.planned, outcome.written, len(outcome.failed)) == (16, 14, 2)
    assert before.items() <= shard_checksums(output).items()
    assert json.loads((output / "classes.json").read_bytes()) == {"0": "class0", "1": "class1", "2": "class00"}
    assert_valid(output)


def test_images_beyond_a_limit_can_be_appended(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "limited"
    plan = planned(images, folder, samples_per_shard=5, limit=5)
    label_shards(folder, plan)
    label_shards(folder, plan_appended(folder, images, samples_per_shard=4))
    storage = LocalStorage(folder)
    assert publish(storage, read_plans(storage), 1)[0].planned == 12
    assert_valid(folder)


def test_appending_with_a_limit_resumes_until_the_images_are_published(images: Path, tmp_path: Path) -> None:
    folder, storage = tmp_path / "limited", LocalStorage(tmp_path / "limited")
    first = plan_appended(folder, images, limit=2)
    assert plan_appended(folder, images, limit=2) == first, "the first plan is resumed as well"
    label_shards(folder, first)
    assert publish(storage, [first], 1)[1]
    second = plan_appended(folder, images, limit=2)
    assert (second.generation, second.images) == (1, 2)
    assert plan_appended(folder, images, limit=2) == second
    other = plan_appended(folder, images, limit=3)
    assert (other.generation, other.images) == (2, 3), "another command draws images of its own"
    assert plan_appended(folder, images, limit=2) == other
    for plan in (second, other):
        label_shards(folder, plan)
    assert publish(storage, read_plans(storage), 1)[1]
    assert plan_appended(folder, images, limit=2).generation == 3
    assert_valid(folder, complete=False)


def test_file_that_a_tar_holds_twice_is_planned_and_retried_once(tmp_path: Path) -> None:
    images, folder = photographs(tmp_path / "images", 2), tmp_path / "out"
    with tarfile.open(images / "images.tar", "w") as tar:
        for content in (b"old", jpeg(80, 60)[:300]):
            header = tarfile.TarInfo("x.jpg")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    label_shards(folder, planned(images, folder))
    storage = LocalStorage(folder)
    assert publish(storage, read_plans(storage), 1)[0].planned == 3
    assert failures(folder) == {"images.tar/x.jpg": "truncated"}
    assert_valid(folder)
    assert plan_retry(folder).images == 1


def test_image_without_class_cannot_join_a_data_set_with_classes(output: Path, images: Path) -> None:
    (images / "outside.jpg").write_bytes(jpeg())
    with pytest.raises(UserError, match=r"outside\.jpg lies outside of the class folders"):
        plan_appended(output, images)


def test_appended_class_folders_are_ignored_if_the_data_set_has_no_classes(tmp_path: Path) -> None:
    images, folder = photographs(tmp_path / "flat", 4), tmp_path / "out"
    label_shards(folder, planned(images, folder))
    photographs(images / "class0", 2)
    assert plan_appended(folder, images).classes is None


def test_samples_with_other_settings_or_teacher_cannot_join(output: Path) -> None:
    plans = read_plans(LocalStorage(output))
    changed = plans[0].config.model_copy(update={"limit": 3, "seed": 9, "samples_per_shard": 7})
    check_compatible(plans, changed, plans[0].teacher)
    with pytest.raises(UserError, match="map_size was 224, is 64"):
        check_compatible(plans, plans[0].config.model_copy(update={"map_size": 64}), plans[0].teacher)
    with pytest.raises(UserError, match="the teacher was"):
        check_compatible(plans, plans[0].config, plans[0].teacher.model_copy(update={"sha256": "1" * 64}))


def test_generation_planned_by_another_job_is_not_replaced(output: Path, images: Path) -> None:
    storage = LocalStorage(output)
    previous = read_plans(storage)[-1]
    listing = open_source(str(images)).list()
    for uris in (TRUNCATED_URIS[:1], TRUNCATED_URIS):
        plan, table = make_plan(select_uris(listing, uris), previous.config, TEACHER, previous.input, previous=previous)
        if uris == TRUNCATED_URIS:
            with pytest.raises(UserError, match="planned by another job just now"):
                save_later_plan(storage, plan, table)
        else:
            save_later_plan(storage, plan, table)
    assert read_plans(storage)[1].images == 1
    assert_valid(output, complete=False)


def test_planning_resumes_after_a_kill_between_listing_and_plan(output: Path, images: Path) -> None:
    plan = plan_retry(output)
    (output / plan.name).unlink()
    assert plan_retry(output) == plan
    (output / plan.name).unlink()
    repair(images, TRUNCATED_URIS[0])
    with pytest.raises(UserError, match=r"listing-0001\.parquet was left by a run that was stopped"):
        plan_retry(output)


def test_published_generation_is_that_of_the_manifest(output: Path, images: Path) -> None:
    storage = LocalStorage(output)
    plan_retry(output)
    plans = read_plans(storage)
    assert read_published_generation(storage) == 0
    assert (is_complete(storage, plans[:1]), is_complete(storage, plans)) == (True, False)
    (output / "manifest.json").unlink()
    assert read_published_generation(storage) is None
    (output / "manifest.json").write_text("{")
    assert not is_complete(storage, plans[:1])
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        publish(storage, plans, 1)


def test_manifest_does_not_depend_on_earlier_publications(output: Path, images: Path) -> None:
    first = (output / "manifest.json").read_bytes()
    repair(images, TRUNCATED_URIS[0])
    label_shards(output, plan_retry(output))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    publish(storage, plans, 1)
    with_first = (output / "manifest.json").read_bytes()
    (output / "manifest.json").unlink()
    publish(storage, plans, 1)
    assert (output / "manifest.json").read_bytes() == with_first != first
    assert Manifest.model_validate_json(with_first).parent == sha256(first)


def test_older_job_does_not_overwrite_a_later_generation(output: Path, images: Path) -> None:
    label_shards(output, plan_retry(output))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    publish(storage, plans, 1)
    newer = checksums(output)
    assert publish(storage, plans[:1], 1)[1]
    assert checksums(output) == newer


def test_verify_finds_a_plan_that_does_not_follow_the_previous_one(output: Path, images: Path) -> None:
    plan = plan_retry(output)
    broken = plan.model_copy(update={"first_image": 100})
    LocalStorage(output).replace(plan.name, broken.to_json())
    assert any("does not follow plan.json" in problem for problem in verify_dataset(str(output), workers=1)["problems"])


def test_outcome_counts_a_retried_image_once(output: Path, images: Path) -> None:
    label_shards(output, plan_retry(output))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    outcome = compute_outcome(storage, plans, read_records(storage, plans))
    assert (outcome.planned, outcome.written, outcome.unfinished) == (12, 10, [])
    assert outcome.failures == {Reason.TRUNCATED: 2}
    assert [failure.key for failure in outcome.failed] == ["000000012", "000000013"]
