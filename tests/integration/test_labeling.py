"""Tests of `python -m labeler.run`, started as users do, with a real Ray."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from common.manifest import Plan
from common.storage import LocalStorage
from labeler.publishing.publish import publish
from labeler.run import main
from labeler.verify import verify_dataset
from tests.support.data.pictures import hostile_images, jpeg, write
from tests.support.jobs import (
    GRADIENT_TEACHER,
    IMAGES,
    PER_SHARD,
    ROOT,
    SHARDS,
    checksums,
    command,
    environment,
    failures,
    label_command,
    members,
    photographs,
    planned,
    run,
    shard_labeler,
    start,
)

KILLS = int(os.environ.get("KILLS", "3"))
TIMEOUT = 120  # seconds for a run to do what a test waits for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labeling")


def assert_valid(output: Path, complete: bool = True) -> None:
    report = verify_dataset(str(output), workers=1)
    assert (report["ok"], report["complete"], report["problems"]) == (True, complete, [])


def assert_same(output: Path, clean: Path) -> None:
    """Assert that both have the same files, except for the records, which contain times."""
    assert checksums(output) == checksums(clean)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in clean.iterdir())


def test_clean_run_holds_every_image_once(images: Path, clean: Path) -> None:
    assert_valid(clean)
    sources = {path.relative_to(images).as_posix(): path.read_bytes() for path in images.rglob("*.jpg")}
    found: dict[str, bytes] = {}
    for tar in sorted(clean.glob("train-*.tar")):
        content = members(tar)
        keys = list(dict.fromkeys(name.split(".")[0] for name in content))
        assert len(keys) == PER_SHARD
        found |= {json.loads(content[f"{key}.json"])["source"]: content[f"{key}.jpg"] for key in keys}
    assert found == sources
    assert not (clean / ".partial").exists()


@pytest.mark.slow
def test_two_workers_make_the_same_bytes_as_one_worker(images: Path, clean: Path, tmp_path: Path) -> None:
    """One of them is killed during the run, and the other takes over its shards."""
    output = tmp_path / "out"
    process = start(label_command(images, output, workers=2), TEACHER_SECONDS="0.1")
    wait_for_records(process, output, 1)
    os.kill(find_worker(process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    assert_same(output, clean)


def find_worker(driver: int) -> int:
    """Return the process id of a labeling worker of a driver."""
    processes = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in processes.splitlines()[1:]]
    descendants = {driver}
    for _ in range(4):  # driver, raylet, worker
        descendants |= {int(pid) for pid, parent, *_ in rows if int(parent) in descendants}
    return next(int(pid) for pid, _, name, *_ in rows if int(pid) in descendants and "LabelWorker" in name)


def test_rerunning_a_finished_run_changes_nothing(images: Path, clean: Path) -> None:
    before = checksums(clean, records=True)
    done = run(label_command(images, clean, workers=2), RAY_ADDRESS="127.0.0.1:1")  # Ray is not needed
    assert done.returncode == 0, done.stderr
    assert checksums(clean, records=True) == before


@pytest.mark.promise
@pytest.mark.slow
def test_killed_runs_can_be_resumed_to_the_same_bytes(images: Path, clean: Path, tmp_path: Path) -> None:
    """Kill runs at a random moment after each has committed a shard; then let a last run finish."""
    output = tmp_path / "out"
    for kill in range(KILLS):
        process = start(label_command(images, output, workers=1 + kill % 2), TEACHER_SECONDS="0.1")
        wait_for_records(process, output, min(count_records(output) + 1, SHARDS))
        time.sleep(random.uniform(0, 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert_valid(output, complete=(output / "manifest.json").exists())
    committed = count_records(output)
    done = run(label_command(images, output, workers=1 + KILLS % 2))
    assert done.returncode == 0, done.stderr
    # at least as many: workers outlive their driver by a moment
    resuming = re.search(r"resuming: (\d+) shards? already committed", done.stdout)
    assert committed == SHARDS or (resuming and int(resuming[1]) >= committed)
    assert_valid(output)
    assert_same(output, clean)


@pytest.mark.slow
def test_interrupted_run_explains_how_to_resume(images: Path, tmp_path: Path) -> None:
    process = start(label_command(images, tmp_path / "out"), TEACHER_SECONDS="0.3")
    wait_for_records(process, tmp_path / "out", 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, errors
    assert "stopped; run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert_valid(tmp_path / "out", complete=False)


def count_records(output: Path) -> int:
    return len(list(output.glob("records/*.json")))


def wait_for_records(process: subprocess.Popen[str], output: Path, records: int) -> None:
    wait_until(lambda: count_records(output) >= records or process.poll() is not None)
    assert count_records(output) >= records, process.communicate()[1]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s in vain"
        time.sleep(0.02)


@pytest.mark.promise
@pytest.mark.slow
def test_concurrent_runs_make_one_data_set(images: Path, clean: Path, tmp_path: Path) -> None:
    both = [start(label_command(images, tmp_path / "out", workers=1), TEACHER_SECONDS="0.03") for _ in range(2)]
    ends = [process.communicate(timeout=TIMEOUT) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert_same(tmp_path / "out", clean)
    assert_valid(tmp_path / "out")


@pytest.fixture(scope="module")
def hostile(folder: Path) -> tuple[Path, dict[str, str | None]]:
    """A folder of hostile images and names, with the expected reason of failure per image, or None if it is labeled."""
    root = folder / "hostile"
    expected: dict[str, str | None] = {}
    for name, (content, reason) in hostile_images().items():
        write(root, {f"hostile/{name}": content})
        expected[f"hostile/{name}"] = reason
    odd_names = [
        "two words.jpg",
        "dots.in.the.name.jpg",
        "été 写真 🦋.jpg",
        'it\'s "quoted".jpg',
        "<script>alert(1)<&script>.jpg",
        "new\nline.jpg",
        "percent%20.jpg",
        "-rf.jpg",
        ".hidden.jpg",
        "LOUD.JPG",
        "archive.tar.jpg",
        f"{'long' * 60}.jpg",
    ]
    for seed, name in enumerate(odd_names):
        write(root, {f"<odd> & 'names'/{name}": jpeg(64, 48, seed)})
        expected[f"<odd> & 'names'/{name}"] = None
    for seed, subfolder in enumerate(("one", "two")):
        write(root, {f"{subfolder}/same.jpg": jpeg(64, 48, 100 + seed)})
        expected[f"{subfolder}/same.jpg"] = None
    write(root, {"one/removed later.jpg": jpeg(64, 48, 200)})
    write(root, {"one/cut later.jpg": jpeg(64, 48, 201)})
    expected |= {"one/removed later.jpg": "missing", "one/cut later.jpg": "changed"}
    write(root, {"one/notes.txt": b"no image"})
    write(root, {"one/._same.jpg": b"metadata that macOS adds to archives"})
    os.mkfifo(root / "two/pipe.jpg")
    (root / "two/dangling.jpg").symlink_to("nowhere.jpg")
    (root / "two/itself.jpg").symlink_to("itself.jpg")
    (root / "two/link.jpg").symlink_to("same.jpg")
    (root / "two/loop").symlink_to(root, target_is_directory=True)
    (root / "two/myself").symlink_to("myself", target_is_directory=True)
    Path(os.fsdecode(os.fsencode(root / "two") + b"/latin-\xe9.jpg")).write_bytes(jpeg(64, 48, 202))
    expected |= {
        "two/pipe.jpg": "unreadable",
        "two/dangling.jpg": "missing",
        "two/itself.jpg": "unreadable",
        "two/link.jpg": None,
        "two/latin-\\xe9.jpg": "missing",
    }
    if os.geteuid():  # root can read everything
        write(root, {"two/forbidden.jpg": jpeg(64, 48, 203)})
        (root / "two/forbidden.jpg").chmod(0)
        expected["two/forbidden.jpg"] = "unreadable"
    return root, expected


def test_every_hostile_image_is_in_a_shard_or_in_failures_jsonl(
    hostile: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    """More than a tenth fails: exit code 1 and no manifest. With --max-bad-fraction 1 the same shards are published."""
    root, expected = hostile
    output = tmp_path / "out"
    removed, cut = root / "one/removed later.jpg", root / "one/cut later.jpg"
    contents = {path: path.read_bytes() for path in (removed, cut)}
    process = start(label_command(root, output, samples_per_shard=20))
    wait_until(lambda: (output / "listing.parquet").exists() or process.poll() is not None)
    removed.unlink()
    cut.write_bytes(contents[cut][:-1])
    printed, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1, errors
    assert "not published" in printed
    assert "Traceback" not in errors
    reasons = {uri: reason for uri, reason in expected.items() if reason}
    assert failures(output) == reasons
    assert not (output / "manifest.json").exists()
    assert_valid(output, complete=False)

    for path, content in contents.items():
        path.write_bytes(content)
    shards = {name: checksum for name, checksum in checksums(output).items() if name.endswith(".tar")}
    done = run(label_command(root, output, samples_per_shard=20, max_bad_fraction=1))
    assert done.returncode == 0, done.stderr
    assert shards.items() <= checksums(output).items()
    assert failures(output) == reasons
    assert_valid(output)
    labeled = [
        json.loads(content)["source"]
        for tar in sorted(output.glob("*.tar"))
        for name, content in members(tar).items()
        if name.endswith(".json")
    ]
    assert sorted(labeled) == sorted(uri for uri, reason in expected.items() if reason is None)
    manifest = json.loads((output / "manifest.json").read_bytes())
    assert manifest["planned"] == manifest["written"] + manifest["failed"] == len(expected)
    assert manifest["failed"] == len(reasons)


def test_plan_only_prints_the_plan_and_a_later_run_follows_it(tmp_path: Path) -> None:
    """With a flat folder and settings from a YAML file: no classes, no stored images, a limited number of images."""
    images, output = photographs(tmp_path / "flat", 12), tmp_path / "out"
    config = tmp_path / "config.yaml"
    settings = {"limit": 9, "samples_per_shard": 5, "include_images": False, "map_size": 48, "seed": 3}
    config.write_text(
        yaml.safe_dump({"input": str(images), "output": str(output), "teacher": GRADIENT_TEACHER} | settings)
    )
    done = run(command(config=config, plan_only=True), RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "2 shards, 9 images" in done.stdout
    assert list(checksums(output)) == ["listing.parquet", "plan.json"]
    assert_valid(output, complete=False)
    plan = (output / "plan.json").read_bytes()

    done = run(command(config=config))
    assert done.returncode == 0, done.stderr
    assert (output / "plan.json").read_bytes() == plan
    assert_valid(output)
    assert json.loads((output / "sizes.json").read_bytes()) == {"train-000000.tar": 5, "train-000001.tar": 4}
    extensions = {name.partition(".")[2] for tar in output.glob("*.tar") for name in members(tar)}
    assert extensions == {"json", "attn.png", "gaze.npy"}
    assert not (output / "classes.json").exists()


def test_tar_files_are_read_without_unpacking(images: Path, tmp_path: Path) -> None:
    """The input has the layout of the original ImageNet: a tar of one tar per class. Labeled without Ray."""
    for class_folder in images.iterdir():
        with tarfile.open(tmp_path / f"{class_folder.name}.tar", "w") as inner:
            inner.add(class_folder, arcname=".")
    with tarfile.open(tmp_path / "all.tar", "w") as outer:
        for path in sorted(tmp_path.glob("class*.tar")):
            outer.add(path, arcname=path.name)
    output = tmp_path / "out"
    plan = planned(tmp_path / "all.tar", output, samples_per_shard=30)
    labeler = shard_labeler(plan, output)
    for shard in range(plan.shards):
        labeler.label(shard)
    storage = LocalStorage(output)
    assert publish(storage, [plan], 0)[1]
    assert_valid(output)
    assert json.loads((output / "classes.json").read_bytes()) == {"0": "class0", "1": "class1", "2": "class2"}
    stored = {content for tar in output.glob("*.tar") for name, content in members(tar).items() if name.endswith("jpg")}
    assert stored == {path.read_bytes() for path in images.rglob("*.jpg")}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that calls the program in this process and asserts that it fails before Ray starts.

    The error must be one line that contains `word`.
    """
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))

    def check(line: list[str], word: str, **more: str) -> None:
        with monkeypatch.context() as patch:
            for name, value in more.items():
                patch.setenv(name, value)
            with pytest.raises(UserError, match=re.escape(word)) as refusal:
                main(line[3:])
        assert "\n" not in str(refusal.value)

    return check


def test_error_is_one_line_with_exit_code_2(tmp_path: Path) -> None:
    done = run(label_command(tmp_path / "absent", tmp_path / "out"), RAY_TMPDIR=str(tmp_path / "ray"))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "ray").exists(), "Ray was started"


def test_workers_get_absolute_locations(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a running cluster, their working folder is the one in which Ray was started."""
    locations: list[str] = []

    def label_shards(settings: object, output: str, plan: Plan, *others: object) -> dict[int, str]:
        locations.extend([output, plan.input])
        return {}

    monkeypatch.setattr("labeler.distributed.pipeline.label_shards", label_shards)
    monkeypatch.chdir(images.parent)
    output = os.path.relpath(tmp_path / "out")
    assert main(label_command(images.name, output)[3:]) == 1
    assert [Path(location).is_absolute() for location in locations] == [True, True]
    assert [Path(location).resolve() for location in locations] == [tmp_path / "out", images]
    assert json.loads((tmp_path / "out/plan.json").read_bytes())["input"] == images.name


def test_input_without_images_is_refused(refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no image")
    refused(label_command(tmp_path / "empty", tmp_path / "out"), "found 1 .txt")
    assert not (tmp_path / "out").exists()


def test_missing_input_is_refused(refused, tmp_path: Path) -> None:
    refused(label_command(tmp_path / "absent", tmp_path / "out"), "absent")


def test_output_is_required(refused, images: Path) -> None:
    refused(command(input=images, teacher=GRADIENT_TEACHER), "--output")


@pytest.mark.parametrize(
    "output",
    [
        "/proc/out",
        "file",
        "file/below",
    ],
)
def test_unwritable_output_is_refused(output: str, refused, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    refused(label_command(images, tmp_path / output), output)


def test_output_inside_the_input_is_refused(refused, images: Path) -> None:
    refused(label_command(images, images / "out"), "inside")
    assert not (images / "out").exists()


def test_output_with_other_files_is_refused(refused, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    refused(label_command(images, output), "other files")
    assert [path.name for path in output.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"samples_per_chard": 5}, "did you mean --samples-per-shard"),
        ({"workers": 0}, "--workers"),
        ({"samples_per_shard": "many"}, "--samples-per-shard"),
        ({"config": "absent.yaml"}, "absent.yaml"),
    ],
)
def test_invalid_settings_are_refused(
    settings: dict[str, object], word: str, refused, images: Path, tmp_path: Path
) -> None:
    refused(label_command(images, tmp_path / "out", **settings), word)


def test_unknown_settings_in_a_file_or_the_environment_are_refused(refused, images: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("shards: 5\n")
    refused(label_command(images, tmp_path / "out", config=config), "shards")
    refused(label_command(images, tmp_path / "out"), "LABELER_SHARDS", LABELER_SHARDS="5")


@pytest.mark.parametrize(
    "teacher",
    [
        "text.tflite",
        "text.safetensors",
        "absent.tflite",
        "tests.support.teachers:absent",
        "tests.support.teachers:not_a_teacher",
    ],
)
def test_invalid_teacher_is_refused(teacher: str, refused, images: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_bytes(b"1234TFL3 and nothing else that such a file needs")
    (tmp_path / "text.safetensors").write_text("no weights")
    name = teacher if teacher.startswith("tests.") else str(tmp_path / teacher)
    refused(label_command(images, tmp_path / "out", teacher=name), "--teacher")


def test_changed_config_or_teacher_is_refused(refused, images: Path, clean: Path) -> None:
    before = checksums(clean, records=True)
    refused(label_command(images, clean, map_size=64, seed=1), "map_size was 224, is 64; seed was 0, is 1")
    refused(label_command(images, clean, teacher="tests.support.teachers:other_teacher"), "other_teacher")
    assert checksums(clean, records=True) == before


def test_changed_input_is_refused(refused, images: Path, tmp_path: Path) -> None:
    changed, output = shutil.copytree(images, tmp_path / "images"), tmp_path / "out"
    assert run(label_command(changed, output, plan_only=True)).returncode == 0
    before = checksums(output)
    first = min(changed.rglob("*.jpg"))
    first.unlink()
    refused(label_command(changed, output), f"1 gone (first: class0/{first.name})")
    first.write_bytes(b"other")
    refused(label_command(changed, output), "1 of another size")
    assert checksums(output) == before


@pytest.fixture
def dataset_copy(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "copy")


def test_damaged_record_is_named(refused, images: Path, dataset_copy: Path) -> None:
    (dataset_copy / "records/train-000002.json").write_bytes(b"")
    refused(label_command(images, dataset_copy), "train-000002.json")


def test_verify_accepts_a_finished_data_set(clean: Path) -> None:
    done = run(command(clean, module="labeler.verify"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ok": True,
        "complete": True,
        "shards": SHARDS,
        "samples": IMAGES,
        "failures": 0,
        "problems": [],
    }


def test_verify_finds_one_flipped_byte(dataset_copy: Path) -> None:
    tar = dataset_copy / "train-000003.tar"
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(content)
    done = run(command(dataset_copy, module="labeler.verify"))
    report = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, report["ok"]) == (1, False)
    assert all("train-000003.tar" in problem for problem in report["problems"])
    assert report["problems"]


def test_verify_accepts_an_unfinished_data_set(dataset_copy: Path) -> None:
    for name in ("manifest.json", "records/train-000001.json", "records/train-000004.json", "train-000004.tar"):
        (dataset_copy / name).unlink()
    report = verify_dataset(str(dataset_copy), workers=1)
    assert (report["ok"], report["complete"], report["shards"]) == (True, False, SHARDS - 2)


@pytest.mark.parametrize("name", ["train-000002.tar", "records/train-000002.json", "sizes.json", "classes.json"])
def test_verify_finds_a_missing_file(name: str, dataset_copy: Path) -> None:
    (dataset_copy / name).unlink()
    report = verify_dataset(str(dataset_copy), workers=1)
    assert not report["ok"]
    assert any(Path(name).stem in problem for problem in report["problems"])


@pytest.mark.parametrize("name", ["plan.json", "listing.parquet", "manifest.json", "records/train-000002.json"])
def test_verify_finds_a_truncated_file(name: str, dataset_copy: Path) -> None:
    content = (dataset_copy / name).read_bytes()
    (dataset_copy / name).chmod(0o644)
    (dataset_copy / name).write_bytes(content[: len(content) // 2])
    assert not verify_dataset(str(dataset_copy), workers=1)["ok"]


@pytest.mark.parametrize("module", ["labeler.run", "labeler.verify", "labeler.preview"])
def test_help_is_fast_and_does_not_import_torch_or_ray(module: str) -> None:
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['{module}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{module}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end:\n"
        "    heavy = sorted({'torch', 'torchvision', 'ray'} & sys.modules.keys())\n"
        "    sys.exit(f'imported {heavy}' if heavy else end.code)\n"
    )
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60
        )
        seconds.append(time.perf_counter() - begin)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()
        if seconds[-1] < 2:
            break
    assert min(seconds) < 2
