"""Tests that a stopped run ends with the bytes of an uninterrupted one, with the bundled teacher on photographs."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from common.manifest import Plan, record_name
from common.storage import LocalStorage
from labeler.planning.generations import read_plans
from labeler.teacher.weights import load_teacher
from tests.support.golden_maps import open_photograph
from tests.support.jobs import ROOT, checksums, members, planned, shard_labeler

PHOTOS = ("astronaut", "camera", "chelsea", "coffee", "coins", "motorcycle_left")
TARS = ("train-000000.tar", "train-000001.tar")
STOPPED_LABELING = """
import sys
from pathlib import Path

import torch

from common.storage import LocalStorage
from labeler.planning.generations import read_plans
from labeler.teacher.weights import load_teacher
from tests.support.jobs import shard_labeler

def wait(done, failed):
    if done == 2:
        print("labeling", flush=True)
        sys.stdin.read()

torch.set_num_threads(2)
output = Path(sys.argv[1])
labeler = shard_labeler(read_plans(LocalStorage(output))[0], output, load_teacher("bundled"), threads=2)
labeler.label(0)
labeler.label(1, progress=wait)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs, one of them a PNG, which is encoded as JPEG by the labeler."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in PHOTOS:
        image = open_photograph(f"{name}.png")
        image.thumbnail((160, 160))
        image.save(folder / (f"{name}.png" if name == "coffee" else f"{name}.jpg"), quality=92)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, two shards of three images, as a process with one thread labels it."""
    output = tmp_path_factory.mktemp("uninterrupted")
    label_missing_shards(plan_photographs(images, output), output, threads=1)
    return output


@pytest.fixture
def many_torch_threads() -> Iterator[None]:
    """Let PyTorch use three threads, unless the labeler limits them."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def plan_photographs(images: Path, output: Path) -> Plan:
    return planned(images, output, samples_per_shard=3)


def label_missing_shards(plan: Plan, output: Path, threads: int) -> None:
    """Label the shards without a record, as a job does."""
    storage = LocalStorage(output)
    storage.sweep()
    labeler = shard_labeler(plan, output, load_teacher("bundled"), threads)
    for shard in plan.shard_indices:
        if not storage.exists(record_name(shard)):
            labeler.label(shard)


def test_samples_are_labels_of_the_bundled_teacher(uninterrupted: Path) -> None:
    for tar in TARS:
        content = members(uninterrupted / tar)
        maps = {data for name, data in content.items() if name.endswith(".attn.png")}
        assert len(content) == 3 * 4
        assert len(maps) == 3


@pytest.mark.usefixtures("many_torch_threads")
def test_number_of_threads_does_not_change_the_shards(images: Path, uninterrupted: Path, tmp_path: Path) -> None:
    label_missing_shards(plan_photographs(images, tmp_path), tmp_path, threads=3)
    assert checksums(tmp_path) == checksums(uninterrupted)


@pytest.mark.usefixtures("many_torch_threads")
def test_resumed_run_of_a_killed_process_gives_the_bytes_of_an_uninterrupted_one(
    images: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    plan_photographs(images, tmp_path)
    command = [sys.executable, "-c", STOPPED_LABELING, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"labeling\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    first = (tmp_path / TARS[0]).stat().st_ino
    assert not (tmp_path / TARS[1]).exists()
    label_missing_shards(read_plans(LocalStorage(tmp_path))[0], tmp_path, threads=3)
    assert checksums(tmp_path) == checksums(uninterrupted)
    assert (tmp_path / TARS[0]).stat().st_ino == first, "the committed shard was labeled again"
