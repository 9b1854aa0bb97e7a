"""Labeling jobs for tests: planned and labeled in this process, or run as a program in another process."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from common.manifest import Plan, Teacher
from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.labeling.hardware import make_backend
from labeler.labeling.shard import ShardLabeler
from labeler.planning.generations import read_plans, save_first_plan
from labeler.planning.listing import ListingReader, PlannedImage
from labeler.planning.plan import make_plan
from labeler.teacher.weights import CustomTeacher
from tests.support.data.pictures import jpeg
from tests.support.teachers import gradient_teacher

ROOT = Path(__file__).resolve().parents[2]
GRADIENT_TEACHER = "tests.support.teachers:gradient_teacher"
IMAGES, PER_SHARD = 60, 5  # images, and samples per shard, of most runs of the whole program
SHARDS = IMAGES // PER_SHARD
TEACHER = Teacher(name="tests", sha256="0" * 64)


def photographs(folder: Path, images: int, classes: int = 0) -> Path:
    """Write small photographs to a folder, in `classes` class folders or, with 0, in none."""
    for index in range(images):
        subfolder = folder / f"class{index % classes}" if classes else folder
        subfolder.mkdir(parents=True, exist_ok=True)
        (subfolder / f"photo{index:03d}.jpg").write_bytes(jpeg(80 + index % 7, 60 + index % 5, seed=index))
    return folder


def planned(images: Path, output: Path, **config: Any) -> Plan:
    """Plan a job as `labeler.run` does, and save the plan."""
    listing = open_source(str(images)).list()
    plan, table = make_plan(listing, LabelConfig(**config), TEACHER, str(images))
    save_first_plan(LocalStorage(output), plan, table)
    return plan


def planned_shard(output: Path, shard: int = 0) -> list[PlannedImage]:
    """Return the images that the first plan assigns to a shard."""
    storage = LocalStorage(output)
    return ListingReader(storage, read_plans(storage)[0]).shard(shard)


def shard_labeler(plan: Plan, output: Path, teacher: nn.Module | None = None, threads: int = 2) -> ShardLabeler:
    """Return a ShardLabeler like that of the job's workers."""
    backend = make_backend(teacher or CustomTeacher(gradient_teacher()), plan.config)
    return ShardLabeler(plan, LocalStorage(output), open_source(plan.input), backend, threads)


def members(tar: Path) -> dict[str, bytes]:
    """Return the content of the files in a tar by name, in their order."""
    with tarfile.open(tar, "r:") as archive:
        return {header.name: archive.extractfile(header).read() for header in archive}


def checksums(output: Path, records: bool = False) -> dict[str, str]:
    """Return the checksum of every file of a data set by path.

    Records and progress.json contain times, so they are excluded unless `records` is set.
    """
    files = (path for path in output.rglob("*") if path.is_file())
    names = {path.relative_to(output).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(names.items())
        if records or not name.startswith(("records/", "progress.json"))
    }


def failures(output: Path) -> dict[str, str]:
    """Return the content of failures.jsonl: the reason of each failure by URI."""
    lines = (output / "failures.jsonl").read_text().splitlines()
    return {line["uri"]: line["reason"] for line in map(json.loads, lines)}


def command(*arguments: object, module: str = "labeler.run", **settings: object) -> list[str]:
    """Return the command line of a program.

    `some_setting=1` becomes `--some-setting 1`, `flag=True` becomes `--flag` and `flag=False` `--no-flag`.
    """
    line = [sys.executable, "-m", module, *map(str, arguments)]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        line += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return line


def label_command(source: object, output: object, **settings: object) -> list[str]:
    """Return the command line that labels images with the gradient teacher, in small shards."""
    defaults = {"input": source, "output": output, "teacher": GRADIENT_TEACHER, "samples_per_shard": PER_SHARD}
    return command(**defaults | settings)


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a program under test: without the shell's settings, and with a Ray of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LABELER_", "TRAINER_"))}
    return inherited | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"} | more


def start(line: list[str], **more: str) -> subprocess.Popen[str]:
    """Start a program in a process group of its own.

    It receives Ctrl-C even if the tests run in the background, where the shell makes processes ignore it.
    """
    return subprocess.Popen(
        line,
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_while_running(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail if the process ends before, or after three minutes."""
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_when(condition: Callable[[], bool], line: list[str], **more: str) -> None:
    """Start a program, and kill its process group as soon as a condition holds."""
    process = start(line, **more)
    wait_while_running(process, condition)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def run(line: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program and wait for its end."""
    return subprocess.run(line, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=240)
