"""`python -m labeler.run` as users start it, with a real Ray."""

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
from common.storage import LocalStorage
from labeler.publishing.publish import publish
from labeler.run import main
from labeler.verify import verify_dataset
from tests.support.jobs import (
    GRADIENT,
    IMAGES,
    PER_SHARD,
    ROOT,
    SHARDS,
    checksums,
    command,
    environment,
    failures,
    label,
    members,
    photographs,
    planned,
    run,
    shard_labeler,
    start,
)
from tests.support.pictures import hostile_images, jpeg, write

KILLS = int(os.environ.get("KILLS", "3"))
PATIENCE = 120  # seconds until a run must have done what a test waits for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labeling")


def assert_sound(output: Path, complete: bool = True) -> None:
    report = verify_dataset(str(output), workers=1)
    assert (report["ok"], report["complete"], report["problems"]) == (True, complete, [])


def assert_same(output: Path, clean: Path) -> None:
    """Every file the same but the records, which tell times; nothing else left behind."""
    assert checksums(output) == checksums(clean)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in clean.iterdir())


def test_clean_run_holds_every_image_once(images: Path, clean: Path) -> None:
    assert_sound(clean)
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
def test_two_workers_make_the_same_bytes_as_one(images: Path, clean: Path, tmp_path: Path) -> None:
    """Also when one of them dies on the way: another takes its shards."""
    output = tmp_path / "out"
    process = start(label(images, output, workers=2), TEACHER_SECONDS="0.1")
    wait_for_records(process, output, 1)
    os.kill(worker_of(process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert_same(output, clean)


def worker_of(driver: int) -> int:
    """The process of one of the labelling workers that belong to a driver."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()[1:]]
    family = {driver}
    for _ in range(4):  # driver, raylet, worker
        family |= {int(pid) for pid, parent, *_ in rows if int(parent) in family}
    return next(int(pid) for pid, _, name, *_ in rows if int(pid) in family and "LabelWorker" in name)


def test_finished_run_run_again_changes_nothing(images: Path, clean: Path) -> None:
    before = checksums(clean, records=True)
    done = run(label(images, clean, workers=2), RAY_ADDRESS="127.0.0.1:1")  # there is nothing to start Ray for
    assert done.returncode == 0, done.stderr
    assert checksums(clean, records=True) == before


@pytest.mark.slow
def test_killed_runs_are_taken_up_and_end_as_a_clean_one(images: Path, clean: Path, tmp_path: Path) -> None:
    """Kill the process group again and again, at any moment after another record; then let a last run finish."""
    output = tmp_path / "out"
    for kill in range(KILLS):
        process = start(label(images, output, workers=1 + kill % 2), TEACHER_SECONDS="0.1")
        wait_for_records(process, output, min(count_records(output) + 1, SHARDS))
        time.sleep(random.uniform(0, 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert_sound(output, complete=(output / "manifest.json").exists())
    there = count_records(output)
    done = run(label(images, output, workers=1 + KILLS % 2))
    assert done.returncode == 0, done.stderr
    going_on = re.search(r"going on: (\d+) shards are there", done.stdout)  # workers outlive their driver by a moment
    assert there == SHARDS or (going_on and int(going_on[1]) >= there)
    assert_sound(output)
    assert_same(output, clean)


@pytest.mark.slow
def test_a_run_that_is_interrupted_says_how_to_go_on(images: Path, tmp_path: Path) -> None:
    process = start(label(images, tmp_path / "out"), TEACHER_SECONDS="0.3")
    wait_for_records(process, tmp_path / "out", 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, errors
    assert "stopped; run the same command again to go on" in errors
    assert "Traceback" not in errors
    assert_sound(tmp_path / "out", complete=False)


def count_records(output: Path) -> int:
    return len(list(output.glob("records/*.json")))


def wait_for_records(process: subprocess.Popen[str], output: Path, records: int) -> None:
    wait_until(lambda: count_records(output) >= records or process.poll() is not None)
    assert count_records(output) >= records, process.communicate()[1]


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_two_runs_at_once_make_one_data_set(images: Path, clean: Path, tmp_path: Path) -> None:
    both = [start(label(images, tmp_path / "out", workers=1), TEACHER_SECONDS="0.03") for _ in range(2)]
    ends = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert_same(tmp_path / "out", clean)
    assert_sound(tmp_path / "out")


@pytest.fixture(scope="module")
def hostile(folder: Path) -> tuple[Path, dict[str, str | None]]:
    """A folder of everything that goes wrong, and the reason to expect for each image; None where it is labelled."""
    root = folder / "hostile"
    expected: dict[str, str | None] = {}
    for name, (content, reason) in hostile_images().items():
        write(root, {f"hostile/{name}": content})
        expected[f"hostile/{name}"] = reason
    odd = [
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
    for seed, name in enumerate(odd):
        write(root, {f"<odd> & 'names'/{name}": jpeg(64, 48, seed)})
        expected[f"<odd> & 'names'/{name}"] = None
    for seed, place in enumerate(("one", "two")):
        write(root, {f"{place}/same.jpg": jpeg(64, 48, 100 + seed)})
        expected[f"{place}/same.jpg"] = None
    write(root, {"one/removed later.jpg": jpeg(64, 48, 200)})
    write(root, {"one/cut later.jpg": jpeg(64, 48, 201)})
    expected |= {"one/removed later.jpg": "missing", "one/cut later.jpg": "changed"}
    write(root, {"one/notes.txt": b"no image"})
    write(root, {"one/._same.jpg": b"what macOS leaves in archives"})
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
    if os.geteuid():  # root may read everything
        write(root, {"two/forbidden.jpg": jpeg(64, 48, 203)})
        (root / "two/forbidden.jpg").chmod(0)
        expected["two/forbidden.jpg"] = "unreadable"
    return root, expected


def test_every_hostile_image_is_in_a_shard_or_in_the_ledger(
    hostile: tuple[Path, dict[str, str | None]], tmp_path: Path
) -> None:
    """More than a tenth fails: exit code 1 and no manifest; with --max-bad-fraction 1 the same shards are published."""
    root, expected = hostile
    output = tmp_path / "out"
    removed, cut = root / "one/removed later.jpg", root / "one/cut later.jpg"
    contents = {path: path.read_bytes() for path in (removed, cut)}
    process = start(label(root, output, samples_per_shard=20))
    wait_until(lambda: (output / "listing.parquet").exists() or process.poll() is not None)
    removed.unlink()
    cut.write_bytes(contents[cut][:-1])
    told, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert "not published" in told
    assert "Traceback" not in errors
    reasons = {uri: reason for uri, reason in expected.items() if reason}
    assert failures(output) == reasons
    assert not (output / "manifest.json").exists()
    assert_sound(output, complete=False)

    for path, content in contents.items():
        path.write_bytes(content)
    shards = {name: checksum for name, checksum in checksums(output).items() if name.endswith(".tar")}
    done = run(label(root, output, samples_per_shard=20, max_bad_fraction=1))
    assert done.returncode == 0, done.stderr
    assert shards.items() <= checksums(output).items()
    assert failures(output) == reasons
    assert_sound(output)
    labelled = [
        json.loads(content)["source"]
        for tar in sorted(output.glob("*.tar"))
        for name, content in members(tar).items()
        if name.endswith(".json")
    ]
    assert sorted(labelled) == sorted(uri for uri, reason in expected.items() if reason is None)
    manifest = json.loads((output / "manifest.json").read_bytes())
    assert manifest["planned"] == manifest["written"] + manifest["failed"] == len(expected)
    assert manifest["failed"] == len(reasons)


def test_plan_only_says_what_will_be_done_and_the_run_goes_on_with_it(tmp_path: Path) -> None:
    """A flat folder, and settings from a YAML file: no classes, no images, a part of the input."""
    images, output = photographs(tmp_path / "flat", 12), tmp_path / "out"
    config = tmp_path / "config.yaml"
    settings = {"limit": 9, "samples_per_shard": 5, "include_images": False, "map_size": 48, "seed": 3}
    config.write_text(yaml.safe_dump({"input": str(images), "output": str(output), "teacher": GRADIENT} | settings))
    done = run(command(config=config, plan_only=True), RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0, done.stderr
    assert "2 shards, 9 images" in done.stdout
    assert list(checksums(output)) == ["listing.parquet", "plan.json"]
    assert_sound(output, complete=False)
    plan = (output / "plan.json").read_bytes()

    done = run(command(config=config))
    assert done.returncode == 0, done.stderr
    assert (output / "plan.json").read_bytes() == plan
    assert_sound(output)
    assert json.loads((output / "sizes.json").read_bytes()) == {"train-000000.tar": 5, "train-000001.tar": 4}
    extensions = {name.partition(".")[2] for tar in output.glob("*.tar") for name in members(tar)}
    assert extensions == {"json", "attn.png", "gaze.npy"}
    assert not (output / "classes.json").exists()


def test_tar_files_are_read_without_unpacking(images: Path, tmp_path: Path) -> None:
    """ImageNet's own layout: a tar of a tar for each class. (Without Ray, which makes no difference here.)"""
    for place in images.iterdir():
        with tarfile.open(tmp_path / f"{place.name}.tar", "w") as inner:
            inner.add(place, arcname=".")
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
    assert_sound(output)
    assert json.loads((output / "classes.json").read_bytes()) == {"0": "class0", "1": "class1", "2": "class2"}
    stored = {content for tar in output.glob("*.tar") for name, content in members(tar).items() if name.endswith("jpg")}
    assert stored == {path.read_bytes() for path in images.rglob("*.jpg")}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call the program, here, which must refuse with one line that has a word in it, before Ray is asked for."""
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))

    def check(line: list[str], word: str, **more: str) -> None:
        with monkeypatch.context() as patch:
            for name, value in more.items():
                patch.setenv(name, value)
            with pytest.raises(UserError, match=re.escape(word)) as refusal:
                main(line[3:])
        assert "\n" not in str(refusal.value)

    return check


def test_the_program_refuses_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    done = run(label(tmp_path / "absent", tmp_path / "out"), RAY_TMPDIR=str(tmp_path / "ray"))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "ray").exists(), "Ray was started"


def test_empty_input_is_refused(refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no image")
    refused(label(tmp_path / "empty", tmp_path / "out"), "found 1 .txt")
    assert not (tmp_path / "out").exists()


def test_absent_input_is_refused(refused, tmp_path: Path) -> None:
    refused(label(tmp_path / "absent", tmp_path / "out"), "absent")


def test_output_must_be_named(refused, images: Path) -> None:
    refused(command(input=images, teacher=GRADIENT), "--output")


@pytest.mark.parametrize(
    "output",
    [
        "/proc/out",
        "file",
        "file/below",
    ],
)
def test_output_that_cannot_be_written_is_refused(output: str, refused, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    refused(label(images, tmp_path / output), output)


def test_output_inside_the_input_is_refused(refused, images: Path) -> None:
    refused(label(images, images / "out"), "inside")
    assert not (images / "out").exists()


def test_output_with_other_files_is_refused(refused, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    refused(label(images, output), "other files")
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
def test_senseless_settings_are_refused(
    settings: dict[str, object], word: str, refused, images: Path, tmp_path: Path
) -> None:
    refused(label(images, tmp_path / "out", **settings), word)


def test_unknown_settings_in_a_file_or_the_environment_are_refused(refused, images: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("shards: 5\n")
    refused(label(images, tmp_path / "out", config=config), "shards")
    refused(label(images, tmp_path / "out"), "LABELER_SHARDS", LABELER_SHARDS="5")


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
def test_teacher_that_is_none_is_refused(teacher: str, refused, images: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_bytes(b"1234TFL3 is what such a file begins with; the rest is missing")
    (tmp_path / "text.safetensors").write_text("no weights")
    name = teacher if teacher.startswith("tests.") else str(tmp_path / teacher)
    refused(label(images, tmp_path / "out", teacher=name), "--teacher")


def test_other_config_or_teacher_than_before_is_refused(refused, images: Path, clean: Path) -> None:
    before = checksums(clean, records=True)
    refused(label(images, clean, map_size=64, seed=1), "map_size was 224, is 64; seed was 0, is 1")
    refused(label(images, clean, teacher="tests.support.teachers:other_teacher"), "other_teacher")
    assert checksums(clean, records=True) == before


def test_other_input_than_before_is_refused(refused, images: Path, tmp_path: Path) -> None:
    changed, output = shutil.copytree(images, tmp_path / "images"), tmp_path / "out"
    assert run(label(changed, output, plan_only=True)).returncode == 0
    before = checksums(output)
    photographs = sorted(changed.rglob("*.jpg"))
    photographs[0].unlink()
    refused(label(changed, output), f"1 gone (first: class0/{photographs[0].name})")
    photographs[0].write_bytes(b"other")
    refused(label(changed, output), "1 of another size")
    assert checksums(output) == before


@pytest.fixture
def copy(clean: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clean, tmp_path / "copy")


def test_damaged_record_is_named(refused, images: Path, copy: Path) -> None:
    (copy / "records/train-000002.json").write_bytes(b"")
    refused(label(images, copy), "train-000002.json")


def test_verify_approves_a_finished_data_set(clean: Path) -> None:
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


def test_verify_finds_one_flipped_byte(copy: Path) -> None:
    tar = copy / "train-000003.tar"
    content = bytearray(tar.read_bytes())
    content[len(content) // 2] ^= 1
    tar.chmod(0o644)
    tar.write_bytes(content)
    done = run(command(copy, module="labeler.verify"))
    report = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, report["ok"]) == (1, False)
    assert all("train-000003.tar" in problem for problem in report["problems"])
    assert report["problems"]


def test_verify_approves_an_unfinished_data_set(copy: Path) -> None:
    for name in ("manifest.json", "records/train-000001.json", "records/train-000004.json", "train-000004.tar"):
        (copy / name).unlink()
    report = verify_dataset(str(copy), workers=1)
    assert (report["ok"], report["complete"], report["shards"]) == (True, False, SHARDS - 2)


@pytest.mark.parametrize("name", ["train-000002.tar", "records/train-000002.json", "sizes.json", "classes.json"])
def test_verify_misses_no_missing_file(name: str, copy: Path) -> None:
    (copy / name).unlink()
    report = verify_dataset(str(copy), workers=1)
    assert not report["ok"]
    assert any(Path(name).stem in problem for problem in report["problems"])


@pytest.mark.parametrize("name", ["plan.json", "listing.parquet", "manifest.json", "records/train-000002.json"])
def test_verify_finds_a_file_cut_short(name: str, copy: Path) -> None:
    content = (copy / name).read_bytes()
    (copy / name).chmod(0o644)
    (copy / name).write_bytes(content[: len(content) // 2])
    assert not verify_dataset(str(copy), workers=1)["ok"]


@pytest.mark.parametrize("module", ["labeler.run", "labeler.verify", "labeler.preview"])
def test_help_answers_at_once_without_torch_or_ray(module: str) -> None:
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
