"""Labelling jobs for tests: planned and labelled in this process, or the whole program in another."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from torch import nn

from common.manifest import Plan, Teacher
from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.labeling.shard import ShardLabeler
from labeler.planning.generations import read_plans, save_first_plan
from labeler.planning.listing import ListingReader, PlannedImage
from labeler.planning.plan import make_plan
from labeler.teacher.weights import ForeignTeacher
from tests.support.pictures import jpeg
from tests.support.teachers import gradient_teacher

ROOT = Path(__file__).resolve().parents[2]
GRADIENT = "tests.support.teachers:gradient_teacher"
IMAGES, PER_SHARD = 60, 5  # of the photographs that most whole runs label
SHARDS = IMAGES // PER_SHARD
TEACHER = Teacher(name="tests", sha256="0" * 64)


def photographs(folder: Path, images: int, classes: int = 0) -> Path:
    """A folder of small photographs, flat or in so many class folders."""
    for index in range(images):
        place = folder / f"class{index % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        (place / f"photo{index:03d}.jpg").write_bytes(jpeg(80 + index % 7, 60 + index % 5, seed=index))
    return folder


def planned(images: Path, output: Path, **config: Any) -> Plan:
    """Plan a job, as `labeler.run` does."""
    listing = open_source(str(images)).list()
    plan, table = make_plan(listing, LabelConfig(**config), TEACHER, str(images))
    save_first_plan(LocalStorage(output), plan, table)
    return plan


def planned_shard(output: Path, shard: int = 0) -> list[PlannedImage]:
    """The images that a shard of the first plan is to hold."""
    storage = LocalStorage(output)
    return ListingReader(storage, read_plans(storage)[0]).shard(shard)


def shard_labeler(plan: Plan, output: Path, teacher: nn.Module | None = None, threads: int = 2) -> ShardLabeler:
    """What a worker of that job has."""
    teacher = teacher or ForeignTeacher(gradient_teacher())
    return ShardLabeler(plan, LocalStorage(output), open_source(plan.input), teacher, threads)


def members(tar: Path) -> dict[str, bytes]:
    """The files in a tar, in their order."""
    with tarfile.open(tar, "r:") as archive:
        return {header.name: archive.extractfile(header).read() for header in archive}


def checksums(output: Path, records: bool = False) -> dict[str, str]:
    """Every file of a data set by its path; records and progress tell times, so they are left out unless asked for."""
    files = (path for path in output.rglob("*") if path.is_file())
    names = {path.relative_to(output).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(names.items())
        if records or not name.startswith(("records/", "progress.json"))
    }


def failures(output: Path) -> dict[str, str]:
    """The ledger: reason by uri."""
    lines = (output / "failures.jsonl").read_text().splitlines()
    return {line["uri"]: line["reason"] for line in map(json.loads, lines)}


def command(*arguments: object, module: str = "labeler.run", **settings: object) -> list[str]:
    """The command line of a program: `some_setting=1` is `--some-setting 1`, True the flag alone, False its `--no-`."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        line += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return line


def label(source: object, output: object, **settings: object) -> list[str]:
    """The command line that labels images with the tests' teacher, in small shards."""
    defaults = {"input": source, "output": output, "teacher": GRADIENT, "samples_per_shard": PER_SHARD}
    return command(**defaults | settings)


def environment(**more: str) -> dict[str, str]:
    """Of a program under test: a Ray of its own, none of this shell's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LABELER_", "TRAINER_"))}
    return kept | {"RAY_ADDRESS": "local", "RAY_USAGE_STATS_ENABLED": "0"} | more


def start(line: list[str], **more: str) -> subprocess.Popen[str]:
    """Start a program in a process group of its own; Ctrl-C reaches it even where the tests run in the background."""
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


def run(line: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(line, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=240)
