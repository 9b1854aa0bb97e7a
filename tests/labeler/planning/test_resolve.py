"""Tests of the settings that a plan fixes, and that no machine that works on it changes."""

import json
from pathlib import Path

import pytest

from common.manifest import PLAN, LabelConfig, MapEncoder, Plan, Teacher
from common.shards import decode_map
from common.storage import LocalStorage
from labeler.labeling.cpu_backend import CpuBackend
from labeler.planning.generations import read_plans
from labeler.planning.plan import compute_fingerprint
from labeler.planning.resolve import resolve_config
from labeler.teacher.weights import load_teacher
from tests.support.jobs import checksums, members, photographs, planned, shard_labeler

TAR = "train-000000.tar"


def test_new_plan_states_the_defaults() -> None:
    assert resolve_config(LabelConfig(seed=7), None) == LabelConfig(seed=7, batch_size=64, map_encoder="isal")


def test_given_settings_are_kept() -> None:
    config = LabelConfig(batch_size=5, map_encoder="pillow")
    assert resolve_config(config, None) == config
    assert resolve_config(config, LabelConfig(batch_size=64, map_encoder="isal")) == config


@pytest.mark.parametrize(
    "stored", [LabelConfig(), LabelConfig(batch_size=64, map_encoder="isal"), LabelConfig(map_encoder="pillow")]
)
def test_further_runs_take_the_settings_of_the_plan(stored: LabelConfig) -> None:
    assert resolve_config(LabelConfig(), stored) == stored


@pytest.mark.parametrize(("map_encoder", "batch_size"), [("isal", 1), ("pillow", 1), (None, 5)])
def test_cpus_process_images_one_by_one_except_for_plans_of_earlier_versions(
    map_encoder: MapEncoder | None, batch_size: int
) -> None:
    config = LabelConfig(batch_size=5, map_encoder=map_encoder)
    assert CpuBackend(load_teacher("bundled"), config).batch_size == batch_size


@pytest.mark.parametrize(
    ("config", "classes", "parent", "fingerprint"),
    [
        (LabelConfig(), ["a", "b"], None, "185a2c4201ba9153eaf93b5d9413404709a2700bf30e75a62eaa3b8e8074334e"),
        (
            LabelConfig(batch_size=8, limit=3),
            None,
            "2" * 64,
            "b2db480ef5e8c9de98470600bbd1d4795e7c40d78442cb165b737ad85b5d2840",
        ),
    ],
)
def test_fingerprints_of_earlier_versions_are_unchanged(
    config: LabelConfig, classes: list[str] | None, parent: str | None, fingerprint: str
) -> None:
    """The fingerprints were computed by the version before the setting `map_encoder`."""
    teacher = Teacher(name="t", sha256="0" * 64)
    assert compute_fingerprint(config, teacher, classes, "1" * 64, parent) == fingerprint
    changed = config.model_copy(update={"map_encoder": "isal"})
    assert compute_fingerprint(changed, teacher, classes, "1" * 64, parent) != fingerprint


def test_plan_of_an_earlier_version_is_labeled_as_that_version_did(tmp_path: Path) -> None:
    images, output = photographs(tmp_path / "images", 4), tmp_path / "out"
    plan = planned(images, output)
    stored = json.loads((output / PLAN).read_bytes())
    del stored["config"]["map_encoder"]
    (output / PLAN).write_text(json.dumps(stored))
    [old] = read_plans(LocalStorage(output))
    assert old == plan
    shard_labeler(old, output).label(0)
    new = planned(images, tmp_path / "new", map_encoder="isal", batch_size=1)
    shard_labeler(new, tmp_path / "new").label(0)
    assert isinstance(new, Plan)
    assert checksums(output)[TAR] != checksums(tmp_path / "new")[TAR]
    before, after = members(output / TAR), members(tmp_path / "new" / TAR)
    assert before.keys() == after.keys()
    for name in before:
        if name.endswith(".attn.png"):
            assert (decode_map(before[name]) == decode_map(after[name])).all()
        else:
            assert before[name] == after[name]
