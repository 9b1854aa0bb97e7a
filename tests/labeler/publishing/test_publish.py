"""Tests of publishing: which files are written from the records of the shards, and when."""

import errno
import io
import itertools
import json
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pytest

from common.errors import Reason, UserError
from common.manifest import Failure, Manifest, Plan, ShardRecord, Teacher, record_name, sha256, shard_name
from common.sources.listing import LISTING_SCHEMA, Listing
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.planning.plan import make_plan
from labeler.publishing.outcome import Outcome, read_records
from labeler.publishing.publish import publish
from tests.support.jobs import checksums, failures

DESCRIPTION = {"failures.jsonl", "manifest.json", "schema.json", "README.md", "croissant.json"}
DESCRIPTION |= {"sizes.json", "_info.json"}
TEACHER = Teacher(name="some-teacher", sha256="ab" * 32)


class FullStorage(LocalStorage):
    """A folder on a disk that is full after a number of files."""

    def __init__(self, root: Path, files: int) -> None:
        super().__init__(root)
        self.files = files

    def replace(self, name: str, content: bytes) -> None:
        self._count_file()
        super().replace(name, content)

    def put_file(self, name: str, file: BinaryIO) -> bool:
        self._count_file()
        return super().put_file(name, file)

    def _count_file(self) -> None:
        if not self.files:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.files -= 1


def make_test_plan(uris: list[str], previous: Plan | None = None, **config: Any) -> Plan:
    table = pa.Table.from_arrays(
        [
            pa.array(uris),
            pa.array([1] * len(uris)),
            pa.nulls(len(uris), LISTING_SCHEMA.field(2).type),
            pa.array([0] * len(uris)),
        ],
        schema=LISTING_SCHEMA,
    )
    settings = LabelConfig(samples_per_shard=10, **config)
    return make_plan(Listing(table, Counter()), settings, TEACHER, "photos", previous)[0]


@pytest.fixture
def plan() -> Plan:
    """30 images of 3 classes, 3 shards of 10."""
    return make_test_plan([f"n0000000{index % 3}/{index}.jpg" for index in range(30)])


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "out")


def commit(storage: LocalStorage, plan: Plan, shard: int, failed: dict[int, Reason] | None = None) -> ShardRecord:
    """Commit an empty tar with the record of a labeled shard. `failed` maps positions in the shard to reasons."""
    sizes, position_in_plan = plan.shard_sizes(), shard - plan.first_shard
    first, size = plan.first_image + sum(sizes[:position_in_plan]), sizes[position_in_plan]
    failures_in_shard = [
        Failure(key=f"{first + position:09d}", uri=f"é <{first + position}>.jpg", reason=reason, message="why")
        for position, reason in (failed or {}).items()
    ]
    content = empty_tar()
    record = ShardRecord(
        shard=shard_name(shard),
        sha256=sha256(content),
        bytes=len(content),
        samples=size - len(failures_in_shard),
        failures=dict(sorted(Counter(failure.reason for failure in failures_in_shard).items())),
        failed=failures_in_shard,
        seconds={"total": 1.5},
        host="here",
        device="cpu",
        attempt=1,
    )
    storage.put(shard_name(shard), content)
    storage.put(record_name(shard), record.to_json())
    return record


def empty_tar() -> bytes:
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    return buffer.getvalue()


def read_manifest(storage: LocalStorage) -> Manifest:
    return Manifest.model_validate_json(storage.read("manifest.json"))


def test_committed_shards_are_published_with_all_description_files(storage: LocalStorage, plan: Plan) -> None:
    records = [commit(storage, plan, shard, {4: Reason.EMPTY} if shard == 1 else None) for shard in range(3)]
    outcome, published = publish(storage, [plan], max_bad_fraction=0.1)
    assert published
    assert outcome == Outcome(30, 29, records[1].failed, [])
    assert DESCRIPTION | {"classes.json"} <= checksums(storage.root).keys()
    manifest = read_manifest(storage)
    assert (manifest.planned, manifest.written, manifest.failed) == (30, 29, 1)
    assert manifest.failures == {Reason.EMPTY: 1}
    assert manifest.fingerprint == plan.fingerprint
    assert manifest.teacher == TEACHER
    assert [(shard.name, shard.sha256, shard.samples) for shard in manifest.shards] == [
        (record.shard, record.sha256, record.samples) for record in records
    ]
    assert manifest.bytes == sum(record.bytes for record in records)
    assert json.loads(storage.read("sizes.json")) == {
        "train-000000.tar": 10,
        "train-000001.tar": 9,
        "train-000002.tar": 10,
    }
    assert json.loads(storage.read("_info.json"))["splits"]["train"] == {
        "name": "train",
        "num_samples": 29,
        "filenames": ["train-000000.tar", "train-000001.tar", "train-000002.tar"],
        "shard_lengths": [10, 9, 10],
    }
    assert json.loads(storage.read("classes.json")) == {"0": "n00000000", "1": "n00000001", "2": "n00000002"}
    schema = json.loads(storage.read("schema.json"))
    assert {"source", "width", "height", "exif_orientation", "source_sha256", "teacher"} <= schema["properties"].keys()


def test_publishing_again_writes_the_same_bytes(storage: LocalStorage, plan: Plan) -> None:
    for shard in range(3):
        commit(storage, plan, shard, {0: Reason.CORRUPT})
    publish(storage, [plan], 0.1)
    once = checksums(storage.root)
    publish(storage, [plan], 0.1)
    assert checksums(storage.root) == once
    for name in DESCRIPTION:  # on another day, too
        assert time.strftime("%Y-%m-%d") not in storage.read(name).decode()


@pytest.mark.parametrize("generations", [1, 2])
def test_manifest_is_written_after_everything_that_it_describes(generations: int, plan: Plan, tmp_path: Path) -> None:
    """On a disk that is full after any number of files, no reader finds a manifest without the files it describes."""
    plans = [plan, make_test_plan([f"n00000001/{index}.jpg" for index in range(30, 50)], previous=plan)][:generations]

    def prepare(folder: Path) -> Path:
        for part in plans:
            if part.generation:
                assert publish(LocalStorage(folder), plans[:-1], 0.1)[1]
            for shard in part.shard_indices:
                commit(LocalStorage(folder), part, shard)
        return folder

    publish(LocalStorage(prepare(tmp_path / "complete")), plans, 0.1)
    complete, manifest = checksums(tmp_path / "complete"), (tmp_path / "complete" / "manifest.json").read_bytes()
    for files in itertools.count():
        storage = FullStorage(prepare(tmp_path / f"{files} files"), files)
        try:
            publish(storage, plans, 0.1)
            break
        except OSError:
            assert storage.exists("manifest.json") == (generations > 1)
            assert not storage.exists("manifest.json") or storage.read("manifest.json") != manifest
        publish(LocalStorage(storage.root), plans, 0.1)
        assert checksums(storage.root) == complete
    assert files == len(DESCRIPTION | {"classes.json"})


def test_published_files_do_not_depend_on_the_order_of_commits(tmp_path: Path, plan: Plan) -> None:
    published = []
    for order in ([0, 1, 2], [2, 0, 1]):
        storage = LocalStorage(tmp_path / str(order[0]))
        for shard in order:
            commit(storage, plan, shard, {shard: Reason.EMPTY})
        publish(storage, [plan], 0.1)
        published.append(checksums(storage.root))
    assert published[0] == published[1]


def test_nothing_is_published_while_shards_are_missing(storage: LocalStorage, plan: Plan) -> None:
    record = commit(storage, plan, 1, {3: Reason.MISSING})
    outcome, published = publish(storage, [plan], 0.1)
    assert not published
    assert outcome == Outcome(30, 9, record.failed, [0, 2])
    assert set(checksums(storage.root)) == {"failures.jsonl", "train-000001.tar"}


@pytest.mark.parametrize(
    ("bad", "max_bad_fraction", "published"),
    [(3, 0.1, True), (4, 0.1, False), (4, 0.2, True), (1, 0, False), (0, 0, True), (30, 1, True)],
)
def test_no_manifest_is_written_if_too_many_images_failed(
    bad: int, max_bad_fraction: float, published: bool, storage: LocalStorage, plan: Plan
) -> None:
    for shard in range(3):
        failed = {index: Reason.TRUNCATED for index in range(10) if shard * 10 + index < bad}
        commit(storage, plan, shard, failed)
    outcome, is_published = publish(storage, [plan], max_bad_fraction)
    assert (is_published, len(outcome.failed), outcome.written) == (published, bad, 30 - bad)
    assert storage.exists("manifest.json") == published
    assert len(failures(storage.root)) == bad
    assert {"train-000000.tar", "train-000001.tar", "train-000002.tar"} <= checksums(storage.root).keys()


def test_failures_up_to_exactly_the_fraction_are_accepted(storage: LocalStorage) -> None:
    plan = make_test_plan([f"{index}.jpg" for index in range(100)])
    for shard in range(10):
        commit(storage, plan, shard, {index: Reason.EMPTY for index in range(10) if shard * 10 + index < 29})
    assert publish(storage, [plan], 0.29)[1]


def test_larger_fraction_publishes_what_a_smaller_one_refused(storage: LocalStorage, plan: Plan) -> None:
    for shard in range(3):
        commit(storage, plan, shard, {0: Reason.EMPTY, 1: Reason.EMPTY})
    assert not publish(storage, [plan], 0.1)[1]
    assert publish(storage, [plan], 0.5)[1]
    assert read_manifest(storage).failed == 6


def test_published_data_set_is_never_withdrawn(storage: LocalStorage, plan: Plan) -> None:
    for shard in range(3):
        commit(storage, plan, shard, {0: Reason.EMPTY})
    assert publish(storage, [plan], 1)[1]
    assert publish(storage, [plan], 0)[1]


def test_manifest_of_a_later_generation_describes_all_shards_and_names_its_parent(
    storage: LocalStorage, plan: Plan
) -> None:
    for shard in range(3):
        commit(storage, plan, shard)
    publish(storage, [plan], 0)
    first = storage.read("manifest.json")
    assert (read_manifest(storage).generation, read_manifest(storage).parent) == (0, None)
    later = make_test_plan([f"n00000003/{index}.jpg" for index in range(15)], previous=plan)
    for shard in later.shard_indices:
        commit(storage, later, shard)
    outcome, published = publish(storage, [plan, later], 0)
    manifest = read_manifest(storage)
    assert published
    assert outcome.planned == manifest.planned == manifest.written == 45
    assert (manifest.generation, manifest.parent, manifest.classes) == (1, sha256(first), 4)
    assert manifest.fingerprint == later.fingerprint
    assert [shard.name for shard in manifest.shards] == [shard_name(shard) for shard in range(5)]
    assert json.loads(storage.read("classes.json"))["3"] == "n00000003"
    split = json.loads(storage.read("_info.json"))["splits"]["train"]
    assert (split["num_samples"], split["shard_lengths"]) == (45, [10, 10, 10, 8, 7])

    published_files = checksums(storage.root)
    outcome, published = publish(storage, [plan], 0)  # by a job that does not know the later generation
    assert (outcome.planned, published) == (30, True)
    assert checksums(storage.root) == published_files


def test_incomplete_later_generation_changes_no_published_file(storage: LocalStorage, plan: Plan) -> None:
    for shard in range(3):
        commit(storage, plan, shard)
    publish(storage, [plan], 1)
    later = make_test_plan([f"n00000003/{index}.jpg" for index in range(15)], previous=plan)
    commit(storage, later, later.first_shard, {1: Reason.EMPTY})
    before = checksums(storage.root)
    outcome, published = publish(storage, [plan, later], 1)
    assert (published, outcome.unfinished) == (False, [later.first_shard + 1])
    assert checksums(storage.root) == before


def test_manifest_that_another_job_replaced_meanwhile_is_a_user_error(
    storage: LocalStorage, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in range(3):
        commit(storage, plan, shard)
    monkeypatch.setattr(storage, "swap", lambda name, expected, content: False)
    with pytest.raises(UserError, match=f"{storage.location}/manifest.json: another job replaced it just now"):
        publish(storage, [plan], 0)


@pytest.mark.parametrize("include_images", [True, False])
def test_manifest_states_the_settings_that_readers_need(include_images: bool, storage: LocalStorage) -> None:
    plan = make_test_plan(["a.jpg", "b.jpg"], include_images=include_images, map_size=96)
    commit(storage, plan, 0)
    publish(storage, [plan], 0)
    manifest = read_manifest(storage)
    assert (manifest.include_images, manifest.map_size, manifest.classes) == (include_images, 96, None)
    assert manifest.shards[0].bytes == len(empty_tar())


def test_reasons_of_failures_are_sorted(storage: LocalStorage, plan: Plan) -> None:
    for shard, reason in enumerate((Reason.TOO_SMALL, Reason.CORRUPT, Reason.EMPTY)):
        commit(storage, plan, shard, {0: reason})
    publish(storage, [plan], 1)
    assert list(read_manifest(storage).failures) == sorted([Reason.TOO_SMALL, Reason.CORRUPT, Reason.EMPTY])


def test_failures_are_listed_in_the_order_of_their_keys(storage: LocalStorage, plan: Plan) -> None:
    for shard in (2, 0, 1):
        commit(storage, plan, shard, {2: Reason.EMPTY, 7: Reason.CORRUPT})
    publish(storage, [plan], 1)
    lines = [json.loads(line) for line in storage.read("failures.jsonl").decode().splitlines()]
    assert [line["key"] for line in lines] == [f"{key:09d}" for key in (2, 7, 12, 17, 22, 27)]
    assert lines[0] == {"key": "000000002", "uri": "é <2>.jpg", "reason": "empty", "message": "why"}


def test_list_of_failures_is_empty_if_nothing_failed(storage: LocalStorage, plan: Plan) -> None:
    for shard in range(3):
        commit(storage, plan, shard)
    publish(storage, [plan], 0.1)
    assert storage.read("failures.jsonl") == b""


def test_damaged_record_raises_error(storage: LocalStorage, plan: Plan) -> None:
    commit(storage, plan, 0)
    storage.replace(record_name(0), b"{")
    with pytest.raises(UserError, match=r"train-000000.json is damaged"):
        read_records(storage, [plan])


@pytest.mark.parametrize("include_images", [True, False])
@pytest.mark.parametrize("classes", [True, False])
def test_card_and_croissant_describe_the_files_of_the_data_set(
    include_images: bool, classes: bool, storage: LocalStorage
) -> None:
    folder = "n00000001/" if classes else ""
    plan = make_test_plan([f"{folder}{index}.jpg" for index in range(20)], include_images=include_images, map_size=64)
    for shard in range(2):
        commit(storage, plan, shard, {0: Reason.TOO_SMALL})
    publish(storage, [plan], 0.1)
    card = storage.read("README.md").decode()
    assert card.startswith("---\n")
    assert "18 of 20 planned; 2 skipped (2 too_small)" in card
    assert TEACHER.id in card
    assert "64 x 64" in card
    assert ("`<key>.jpg`" in card) == include_images == ('sample["jpg"]' in card)
    assert ("`<key>.cls`" in card) == classes == storage.exists("classes.json")
    assert ("--num-classes 1\n" in card) == (include_images and classes), "timm reads images with classes only"
    assert "{" not in card.replace('f"{name}', "").partition("## Loading")[0], "an unfilled placeholder"
    croissant = json.loads(storage.read("croissant.json"))
    shards = {
        entry["name"]: entry["sha256"] for entry in croissant["distribution"] if entry["@type"] == "cr:FileObject"
    }
    patterns = {entry["includes"] for entry in croissant["distribution"] if entry["@type"] == "cr:FileSet"}
    assert shards == {shard.name: shard.sha256 for shard in read_manifest(storage).shards}
    assert ("*.jpg" in patterns) == include_images
    assert ("*.cls" in patterns) == classes
    assert {"*.json", "*.attn.png", "*.gaze.npy"} <= patterns
    assert len(croissant["recordSet"]) == len(patterns)
