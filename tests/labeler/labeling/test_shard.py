import io
import json
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.errors import Reason
from common.images.orientation import map_to_stored
from common.manifest import ShardRecord, sha256
from common.shards import decode_map, decode_points
from labeler.labeling.shard import NoSpace, ShardConflict, UnreadableInput
from labeler.planning.space import estimate_shard_bytes
from labeler.teacher.weights import CustomTeacher
from tests.support.data.pictures import jpeg
from tests.support.jobs import checksums, members, photographs, planned, planned_shard, shard_labeler
from tests.support.teachers import gradient_teacher

TAR = "train-000000.tar"
RECORD = "records/train-000000.json"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return photographs(tmp_path / "images", 11, classes=3)


def label(images: Path, output: Path, teacher: nn.Module | None = None, threads: int = 2, **config: Any) -> ShardRecord:
    """Plan a job and label its first shard."""
    return shard_labeler(planned(images, output, **config), output, teacher, threads).label(0)


class FunctionModule(nn.Module):
    """Module that applies a function to a batch of images."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(images)


def test_shard_holds_its_images_in_plan_order(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    record = label(images, output, map_size=32)
    content = members(output / TAR)
    plan = planned_shard(output)
    extensions = ("jpg", "cls", "json", "attn.png", "gaze.npy")
    assert list(content) == [f"{image.key}.{extension}" for image in plan for extension in extensions]
    for image in plan:
        source = (images / image.ref.uri).read_bytes()
        info = json.loads(content[f"{image.key}.json"])
        points = decode_points(content[f"{image.key}.gaze.npy"])
        assert content[f"{image.key}.jpg"] == source
        assert content[f"{image.key}.cls"] == str(image.class_index).encode()
        assert info["source"] == image.ref.uri
        assert info["source_sha256"] == sha256(source)
        assert info["wnid"] == f"class{image.class_index}"
        assert (info["width"], info["height"]) == Image.open(io.BytesIO(source)).size
        assert info["gaze_points"] == len(points) > 0
        assert points[0, 2] == 1
        assert decode_map(content[f"{image.key}.attn.png"]).shape == (32, 32)
        assert decode_map(content[f"{image.key}.attn.png"]).max() == 255
    assert record.samples == 11


def test_record_describes_the_committed_shard(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    record = label(images, output)
    content = (output / TAR).read_bytes()
    assert record == ShardRecord.model_validate_json((output / RECORD).read_bytes())
    assert (record.sha256, record.bytes) == (sha256(content), len(content))
    assert record.shard == TAR
    assert {"fetch", "decode", "teacher", "encode", "wait", "write", "commit", "total"} <= record.seconds.keys()
    assert (record.host, record.device, record.attempt) == (socket.gethostname(), "cpu", 1)


def test_record_counts_the_attempts(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert shard_labeler(planned(images, output), output).label(0, attempt=3).attempt == 3


def test_shard_that_does_not_fit_in_the_scratch_space_is_not_begun(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    labeler = shard_labeler(planned(images, output), output)
    sizes = [path.stat().st_size for path in images.rglob("*.jpg")]
    needed = estimate_shard_bytes(len(sizes), sum(sizes), include_images=True)
    monkeypatch.setattr(labeler.storage, "scratch_bytes", lambda: needed - 1)
    monkeypatch.setattr(labeler.source, "read", lambda image: pytest.fail("an image was read"))
    with pytest.raises(NoSpace, match=f"about {needed:,} bytes of scratch space .*, {needed - 1:,} are free"):
        labeler.label(0)
    monkeypatch.undo()
    monkeypatch.setattr(labeler.storage, "scratch_bytes", lambda: needed)
    assert labeler.label(0).samples == 11


def test_scratch_space_of_a_shard_without_images_is_smaller(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    labeler = shard_labeler(planned(images, output, include_images=False), output)
    labeler.storage.scratch_bytes = lambda: estimate_shard_bytes(11, 0, include_images=False)
    assert labeler.label(0).samples == 11


def test_tar_headers_hold_no_times_or_owners(images: Path, tmp_path: Path) -> None:
    label(images, tmp_path / "out")
    with tarfile.open(tmp_path / "out" / TAR) as archive:
        for header in archive:
            assert (header.mtime, header.uid, header.gid, header.mode) == (0, 0, 0, 0o444)
            assert (header.uname, header.gname, header.pax_headers) == ("", "", {})


def test_number_of_threads_does_not_change_the_shard(images: Path, tmp_path: Path) -> None:
    label(images, tmp_path / "one", threads=1, batch_size=3)
    label(images, tmp_path / "many", threads=8, batch_size=3)
    assert checksums(tmp_path / "one") == checksums(tmp_path / "many")


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, the teacher takes 32 images at once")
def test_teacher_runs_on_one_thread_with_one_image_at_a_time(images: Path, tmp_path: Path) -> None:
    """The last bits of a map depend on both numbers, so they must not depend on the machine."""
    calls: list[tuple[int, int]] = []

    def record(images: Tensor) -> Tensor:
        calls.append((torch.get_num_threads(), len(images)))
        return gradient_teacher()(images)

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        label(images, tmp_path / "out", CustomTeacher(FunctionModule(record)))
    finally:
        torch.set_num_threads(threads)
    assert calls == [(1, 1)] * 11


def test_images_are_distributed_evenly_over_shards(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    labeler = shard_labeler(planned(images, output, samples_per_shard=4), output)
    records = [labeler.label(shard) for shard in range(3)]
    assert [record.samples for record in records] == [4, 4, 3]
    keys = [name.split(".")[0] for record in records for name in members(output / record.shard)]
    assert sorted(set(keys)) == [f"{key:09d}" for key in range(11)]


def test_flat_folder_has_no_classes_and_images_can_be_omitted(tmp_path: Path) -> None:
    output = tmp_path / "out"
    label(photographs(tmp_path / "flat", 3), output, include_images=False)
    extensions = {name.partition(".")[2] for name in members(output / TAR)}
    assert extensions == {"json", "attn.png", "gaze.npy"}


def test_progress_reaches_the_number_of_planned_images(images: Path, tmp_path: Path) -> None:
    plan = planned(images, tmp_path / "out")
    next(images.rglob("*.jpg")).unlink()
    calls: list[tuple[int, int]] = []
    shard_labeler(plan, tmp_path / "out").label(0, progress=lambda done, failed: calls.append((done, failed)))
    for counts in zip(*calls, strict=True):  # done, failed
        assert list(counts) == sorted(counts)
    assert calls[0] < calls[-1] == (11, 1)


def test_map_of_a_rotated_photograph_is_in_the_stored_frame(tmp_path: Path) -> None:
    """A photograph stored sideways with EXIF orientation 6 gets the map of the upright one, rotated in the same way."""
    upright = Image.open(io.BytesIO(jpeg(120, 80, seed=5))).convert("RGB")
    sideways = upright.transpose(Image.Transpose.ROTATE_90)  # a viewer rotates it back, clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    images = tmp_path / "images"
    images.mkdir()
    upright.save(images / "a.jpg", quality=95)
    sideways.save(images / "b.jpg", quality=95, exif=exif)
    label(images, tmp_path / "out")
    maps = {}
    for name, content in members(tmp_path / "out" / TAR).items():
        extension = name.partition(".")[2]
        if extension == "json":
            source, orientation = json.loads(content)["source"], json.loads(content)["exif_orientation"]
            assert orientation == (6 if source == "b.jpg" else 1)
        if extension == "attn.png":
            maps[source] = decode_map(content).astype(int)
    assert np.abs(map_to_stored(maps["a.jpg"], 6) - maps["b.jpg"]).max() <= 3  # JPEG noise
    assert np.abs(maps["a.jpg"] - maps["b.jpg"]).max() > 30


def test_failed_images_are_recorded_and_the_others_stay_in_order(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    plan = planned(images, output)
    first, second, *_ = planned_shard(output)
    (images / first.ref.uri).unlink()
    (images / second.ref.uri).write_bytes(b"other")
    record = shard_labeler(plan, output).label(0)
    assert [(failure.key, failure.reason) for failure in record.failed] == [
        (first.key, Reason.MISSING),
        (second.key, Reason.CHANGED),
    ]
    assert [failure.uri for failure in record.failed] == [first.ref.uri, second.ref.uri]
    assert all(failure.message for failure in record.failed)
    assert list(record.failures.items()) == [(Reason.CHANGED, 1), (Reason.MISSING, 1)]
    keys = [name.split(".")[0] for name in members(output / TAR) if name.endswith(".json")]
    assert keys == [f"{key:09d}" for key in range(2, 11)]


def test_shard_without_usable_images_is_an_empty_tar(images: Path, tmp_path: Path) -> None:
    plan = planned(images, tmp_path / "out")
    for path in images.rglob("*.jpg"):
        path.write_bytes(bytes(path.stat().st_size))
    record = shard_labeler(plan, tmp_path / "out").label(0)
    assert record.failures == {Reason.NOT_AN_IMAGE: 11}
    assert members(tmp_path / "out" / TAR) == {}


def test_shard_of_ten_images_of_which_none_can_be_read_is_not_committed(images: Path, tmp_path: Path) -> None:
    """On a machine that has not mounted the input, all images are missing; another machine can label them."""
    output = tmp_path / "out"
    labeler = shard_labeler(planned(images, output, limit=10), output)
    first, second, *_ = planned_shard(output)
    images.rename(tmp_path / "elsewhere")
    (images / second.ref.uri).mkdir(parents=True)  # is unreadable
    with pytest.raises(UnreadableInput) as error:
        labeler.label(0)
    assert str(error.value) == (
        f"none of its 10 images could be read on {socket.gethostname()}; the first one is missing ({first.ref.uri}: "
        f"listed when the job was planned, gone now). Check that {images} can be read there: is it mounted?"
    )
    assert not (output / TAR).exists()
    assert not (output / RECORD).exists()
    assert partial_files(output) == []
    shutil.rmtree(images)
    (tmp_path / "elsewhere").rename(images)
    assert labeler.label(0, attempt=2).samples == 10


def test_shard_of_nine_missing_images_or_with_another_failure_is_committed(images: Path, tmp_path: Path) -> None:
    plans = {limit: planned(images, tmp_path / f"{limit}", limit=limit) for limit in (9, 10)}
    last = images / planned_shard(tmp_path / "10")[-1].ref.uri
    for path in images.rglob("*.jpg"):
        path.unlink()
    records = [shard_labeler(plans[9], tmp_path / "9").label(0)]
    last.write_bytes(b"")
    records.append(shard_labeler(plans[10], tmp_path / "10").label(0))
    assert [record.failures for record in records] == [{Reason.MISSING: 9}, {Reason.CHANGED: 1, Reason.MISSING: 9}]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda images: torch.full((len(images), 6, 8), torch.nan), Reason.NON_FINITE_MAP),
        (lambda images: torch.full((len(images), 6, 8), torch.inf), Reason.NON_FINITE_MAP),
        (lambda images: torch.ones(len(images), 6, 8), Reason.CONSTANT_MAP),
        (lambda images: torch.zeros(len(images), 6, 8), Reason.CONSTANT_MAP),
    ],
    ids=["nan", "infinity", "ones", "zeros"],
)
def test_invalid_maps_become_failures(function: Any, reason: Reason, images: Path, tmp_path: Path) -> None:
    record = label(images, tmp_path / "out", CustomTeacher(FunctionModule(function)))
    assert record.failures == {reason: 11}


def test_failed_image_does_not_shift_other_batches(images: Path, tmp_path: Path) -> None:
    """With a teacher whose maps depend on the whole batch, only labels in the batch of a missing image may change."""
    teacher = CustomTeacher(
        FunctionModule(lambda images: gradient_teacher()(images) * (1 + images.mean((0, 1))[::8, ::8]))
    )
    shards = {}
    for name in ("whole", "missing"):
        plan = planned(images, tmp_path / name, batch_size=4)
        missing = planned_shard(tmp_path / name)[1]
        if name == "missing":
            (images / missing.ref.uri).unlink()
        shard_labeler(plan, tmp_path / name, teacher).label(0)
        shards[name] = members(tmp_path / name / TAR)
    others = {name: content for name, content in shards["whole"].items() if not name.startswith(missing.key)}
    assert shards["missing"].keys() == others.keys()
    different = {int(name.split(".")[0]) for name in others if others[name] != shards["missing"][name]}
    assert different == {0, 2, 3}


def test_existing_shard_with_other_bytes_is_a_conflict_and_is_not_overwritten(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    labeler = shard_labeler(planned(images, output), output)
    (output / TAR).write_bytes(b"somebody else's")
    found = sha256(b"somebody else's")[:12]
    with pytest.raises(ShardConflict, match=f"{TAR} exists with checksum {found}, this run made [0-9a-f]{{12}}: .*"):
        labeler.label(0)
    assert (output / TAR).read_bytes() == b"somebody else's"
    assert not (output / RECORD).exists()
    assert partial_files(output) == []


def test_existing_shard_with_the_same_bytes_is_a_success(images: Path, tmp_path: Path) -> None:
    """An earlier run died before it wrote the record, or a parallel run was faster."""
    output = tmp_path / "out"
    labeler = shard_labeler(planned(images, output), output)
    labeler.label(0)
    (output / RECORD).unlink()
    inode = (output / TAR).stat().st_ino
    record = labeler.label(0)
    assert ShardRecord.model_validate_json((output / RECORD).read_bytes()) == record
    assert (output / TAR).stat().st_ino == inode


def test_disk_that_fills_during_a_run_is_reported_with_the_folder_to_clear(images: Path, tmp_path: Path) -> None:
    """Scratch files of a local data set lie in its folder, so that TMPDIR does not help."""
    (tmp_path / "disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path / "disk"]).returncode:
        pytest.skip("needs permission to mount a tmpfs")
    try:
        output = tmp_path / "disk" / "out"
        labeler = shard_labeler(planned(images, output), output)
        (tmp_path / "disk" / "filler").write_bytes(bytes(shutil.disk_usage(output).free - 100_000))
        with pytest.raises(
            NoSpace, match=rf"needs about \d{{3}},\d{{3}} bytes of scratch space in {output} on "
        ) as error:
            labeler.label(0)
        assert str(error.value).endswith("are free: free some space there")
        assert not list(output.glob("*.tar"))
    finally:
        subprocess.run(["umount", "-l", tmp_path / "disk"], check=True)


def test_teacher_error_leaves_no_files_and_the_shard_can_be_retried(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    calls: list[int] = []

    def fail_once(images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(calls) == 5:
            raise RuntimeError("out of memory")
        return gradient_teacher()(images)

    labeler = shard_labeler(planned(images, output), output, CustomTeacher(FunctionModule(fail_once)))
    with pytest.raises(RuntimeError, match="out of memory"):
        labeler.label(0)
    assert not (output / TAR).exists()
    assert not (output / RECORD).exists()
    assert partial_files(output) == []
    labeler.label(0, attempt=2)
    label(images, tmp_path / "undisturbed")
    assert checksums(output) == checksums(tmp_path / "undisturbed")


def partial_files(output: Path) -> list[Path]:
    return list((output / ".partial").glob("*"))


@pytest.mark.parametrize(("threads", "expected"), [(1, 2), (3, 6)])
def test_few_images_are_fetched_before_the_teacher_needs_them(
    threads: int, expected: int, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory must not depend on the number of images in a shard."""
    output, reads, reads_at_first = tmp_path / "out", [], []

    def wait_and_count(batch: Tensor) -> Tensor:
        if not reads_at_first:
            time.sleep(0.5)  # for threads that would fetch more
            reads_at_first.append(len(reads))
        return batch.mean(1)

    teacher = CustomTeacher(FunctionModule(wait_and_count))
    labeler = shard_labeler(planned(images, output), output, teacher, threads)
    read = labeler.source.read
    monkeypatch.setattr(labeler.source, "read", lambda image: (reads.append(image), read(image))[1])
    assert labeler.label(0).samples == 11
    assert reads_at_first == [expected]
