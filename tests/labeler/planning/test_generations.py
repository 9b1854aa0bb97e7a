"""Later plans of a data set: images that are tried again, and images that are added."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import Reason, UserError
from common.manifest import Manifest, Plan, sha256
from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.planning.generations import check_compatible, exclude_planned, read_plans, save_later_plan, select_uris
from labeler.planning.listing import ListingReader
from labeler.planning.plan import make_plan
from labeler.publishing.outcome import compute_outcome, find_unretried, read_records
from labeler.publishing.publish import make_manifest, publish
from labeler.verify import verify_dataset
from tests.support.jobs import TEACHER, checksums, failures, members, photographs, planned, shard_labeler
from tests.support.pictures import jpeg

CUT = ["class0/photo004.jpg", "class1/photo007.jpg"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve photographs in two class folders, two of them cut short."""
    folder = photographs(tmp_path / "images", 12, classes=2)
    for uri in CUT:
        (folder / uri).write_bytes((folder / uri).read_bytes()[:300])
    return folder


@pytest.fixture
def output(images: Path, tmp_path: Path) -> Path:
    """Their data set, published."""
    folder = tmp_path / "out"
    plan = planned(images, folder, samples_per_shard=5)
    label(folder, plan)
    assert publish(LocalStorage(folder), [plan], 1)[1]
    return folder


def label(output: Path, plan: Plan) -> None:
    labeler = shard_labeler(plan, output)
    for shard in plan.shard_indices:
        labeler.label(shard)


def mend(images: Path, uri: str) -> None:
    (images / uri).write_bytes(jpeg(90, 70, seed=5))


def retried(output: Path, images: Path) -> Plan:
    """Plan what failed as a further generation, as `labeler.retry` does."""
    storage = LocalStorage(output)
    plans = read_plans(storage)
    uris = list(find_unretried(storage, plans, read_records(storage, plans)))
    return later(output, select_uris(open_source(str(images)).list(), uris))


def appended(output: Path, images: Path, **config: Any) -> Plan:
    """Plan what is new as a further generation, as `labeler.run --append` does."""
    storage = LocalStorage(output)
    return later(output, exclude_planned(storage, read_plans(storage), open_source(str(images)).list()), **config)


def later(output: Path, listing: Any, **config: Any) -> Plan:
    storage = LocalStorage(output)
    before = read_plans(storage)[-1]
    settings = LabelConfig(**{"samples_per_shard": 5} | config)
    plan, table = make_plan(listing, settings, TEACHER, before.input, before=before)
    save_later_plan(storage, plan, table)
    return plan


def shards(output: Path) -> dict[str, str]:
    return {name: checksum for name, checksum in checksums(output).items() if name.endswith(".tar")}


def assert_sound(output: Path, complete: bool = True) -> None:
    report = verify_dataset(str(output), workers=1)
    assert (report["problems"], report["complete"]) == ([], complete)


def test_shards_and_keys_of_a_later_generation_follow_the_last_ones(output: Path, images: Path) -> None:
    plan = retried(output, images)
    assert (plan.generation, plan.first_shard, plan.first_image, plan.images) == (1, 3, 12, 2)
    assert plan.parent == read_plans(LocalStorage(output))[0].fingerprint
    assert (output / "plan-0001.json").exists()
    planned_images = ListingReader(LocalStorage(output), plan).shard(3)
    assert [image.key for image in planned_images] == ["000000012", "000000013"]
    assert sorted(image.ref.uri for image in planned_images) == CUT


def test_a_retry_takes_what_is_mended_out_of_the_ledger_and_changes_no_shard(output: Path, images: Path) -> None:
    before = shards(output)
    first = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    mend(images, CUT[0])
    label(output, retried(output, images))
    storage = LocalStorage(output)
    result, published = publish(storage, read_plans(storage), 1)
    assert published
    assert (result.planned, result.written) == (12, 11)
    assert failures(output) == {CUT[1]: "truncated"}
    assert before.items() <= shards(output).items()
    assert_sound(output)
    manifest = Manifest.model_validate_json((output / "manifest.json").read_bytes())
    assert (manifest.generation, manifest.parent) == (1, sha256(first.to_json()))
    assert (manifest.planned, manifest.written, manifest.failed) == (12, 11, 1)
    assert [shard.samples for shard in manifest.shards][-1] == 1
    assert [shard.name for shard in manifest.shards] == sorted(shards(output))
    (info,) = [json.loads(c) for name, c in members(output / "train-000003.tar").items() if name.endswith("json")]
    assert info["source"] == CUT[0]


def test_what_failed_again_can_be_tried_once_more(output: Path, images: Path) -> None:
    label(output, retried(output, images))
    mend(images, CUT[0])
    mend(images, CUT[1])
    label(output, retried(output, images))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    assert [plan.first_shard for plan in plans] == [0, 3, 4]
    assert publish(storage, plans, 0)[1]
    assert failures(output) == {}
    assert find_unretried(storage, plans, read_records(storage, plans)) == {}
    assert_sound(output)


def test_an_unfinished_generation_leaves_the_published_one_alone(output: Path, images: Path) -> None:
    before = checksums(output)
    plan = retried(output, images)
    storage = LocalStorage(output)
    result, published = publish(storage, read_plans(storage), 1)
    assert not published
    assert result.unfinished == [3]
    assert before.items() <= checksums(output).items()
    assert_sound(output, complete=False)
    assert find_unretried(storage, read_plans(storage), read_records(storage, [plan])) == {}


def test_new_images_and_new_classes_join_without_moving_the_old_ones(output: Path, images: Path) -> None:
    before = shards(output)
    photographs(images / "class00", 3)
    (images / "class1/another.jpg").write_bytes(jpeg(64, 64))
    plan = appended(output, images)
    assert plan.classes == ["class0", "class1", "class00"], "the old indices stay"
    assert (plan.images, plan.shards) == (4, 1)
    label(output, plan)
    storage = LocalStorage(output)
    result, published = publish(storage, read_plans(storage), 1)
    assert published
    assert (result.planned, result.written, len(result.failed)) == (16, 14, 2)
    assert before.items() <= shards(output).items()
    assert json.loads((output / "classes.json").read_bytes()) == {"0": "class0", "1": "class1", "2": "class00"}
    assert_sound(output)


def test_the_images_beyond_a_limit_can_be_appended(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "limited"
    plan = planned(images, folder, samples_per_shard=5, limit=5)
    label(folder, plan)
    label(folder, appended(folder, images, samples_per_shard=4))
    storage = LocalStorage(folder)
    assert publish(storage, read_plans(storage), 1)[0].planned == 12
    assert_sound(folder)


def test_an_image_without_a_class_cannot_join_a_data_set_with_classes(output: Path, images: Path) -> None:
    (images / "outside.jpg").write_bytes(jpeg())
    with pytest.raises(UserError, match=r"outside\.jpg lies outside of the class folders"):
        appended(output, images)


def test_class_folders_are_no_classes_where_the_data_set_has_none(tmp_path: Path) -> None:
    images, folder = photographs(tmp_path / "flat", 4), tmp_path / "out"
    label(folder, planned(images, folder))
    photographs(images / "class0", 2)
    assert appended(folder, images).classes is None


def test_another_kind_of_sample_cannot_join(output: Path) -> None:
    plans = read_plans(LocalStorage(output))
    changed = plans[0].config.model_copy(update={"limit": 3, "seed": 9, "samples_per_shard": 7})
    check_compatible(plans, changed, plans[0].teacher)
    with pytest.raises(UserError, match="map_size was 224, is 64"):
        check_compatible(plans, plans[0].config.model_copy(update={"map_size": 64}), plans[0].teacher)
    with pytest.raises(UserError, match="the teacher was"):
        check_compatible(plans, plans[0].config, plans[0].teacher.model_copy(update={"sha256": "1" * 64}))


def test_a_generation_that_another_job_planned_meanwhile_is_kept(output: Path, images: Path) -> None:
    storage = LocalStorage(output)
    before = read_plans(storage)[-1]
    listing = open_source(str(images)).list()
    for uris in (CUT[:1], CUT):
        plan, table = make_plan(select_uris(listing, uris), before.config, TEACHER, before.input, before=before)
        if uris == CUT:
            with pytest.raises(UserError, match="planned by another job just now"):
                save_later_plan(storage, plan, table)
        else:
            save_later_plan(storage, plan, table)
    assert read_plans(storage)[1].images == 1
    assert_sound(output, complete=False)


def test_planning_again_after_a_kill_between_listing_and_plan_goes_on(output: Path, images: Path) -> None:
    plan = retried(output, images)
    (output / plan.name).unlink()
    assert retried(output, images) == plan
    (output / plan.name).unlink()
    mend(images, CUT[0])
    with pytest.raises(UserError, match=r"listing-0001\.parquet was left by a run that was stopped"):
        retried(output, images)


def test_the_manifest_does_not_depend_on_what_was_published_before(output: Path, images: Path) -> None:
    mend(images, CUT[0])
    label(output, retried(output, images))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    (output / "manifest.json").unlink()
    expected = make_manifest(storage, plans, read_records(storage, plans)).to_json()
    publish(storage, plans, 1)
    assert (output / "manifest.json").read_bytes() == expected


def test_an_older_job_does_not_publish_over_a_newer_one(output: Path, images: Path) -> None:
    label(output, retried(output, images))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    publish(storage, plans, 1)
    newer = checksums(output)
    assert publish(storage, plans[:1], 1)[1]
    assert checksums(output) == newer


def test_verify_finds_a_plan_that_does_not_follow(output: Path, images: Path) -> None:
    plan = retried(output, images)
    broken = plan.model_copy(update={"first_image": 100})
    LocalStorage(output).replace(plan.name, broken.to_json())
    assert any("does not follow plan.json" in problem for problem in verify_dataset(str(output), workers=1)["problems"])


def test_outcomes_count_an_image_once(output: Path, images: Path) -> None:
    label(output, retried(output, images))
    storage = LocalStorage(output)
    plans = read_plans(storage)
    result = compute_outcome(storage, plans, read_records(storage, plans))
    assert (result.planned, result.written, result.unfinished) == (12, 10, [])
    assert result.failures == {Reason.TRUNCATED: 2}
    assert [failure.key for failure in result.failed] == ["000000012", "000000013"]
