"""What the documents show, done in its order: their commands, only made shorter, and their Python.

What is submitted to a cluster runs on this machine. Lines for other programs (make, pip, docker, aws) are left out.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common.fixations import osie, salicon
from tests.support.datasets import COLOURS, disc_sample, make_dataset
from tests.support.documents import blocks, lines
from tests.support.jobs import ROOT, environment
from tests.support.people import make_people
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.slow

CLASSES, EACH = 3, 8
TRAINING = "--image-size 48 --batch-size 8 --epochs 1 --warmup-epochs 0"
SHORTER = {
    "labeler.run": "--samples-per-shard 8",
    "labeler.teacher.train": "--batch-size 2 --epochs 1 --input-scale 0.2",
    "trainer.run": TRAINING,
    "trainer.table": f"{TRAINING} --human-batch-size 4 --seeds 1",
    "trainer.search": f"{TRAINING} --trials 1",
    "trainer.evaluate": "--images 6 --queries 5",
}
HERE = {"labeler.run": "--workers 1 --gpus-per-worker 0", "trainer.run": "--workers 1"}  # instead of on a cluster
SUBMIT = re.compile(r"^ray job submit .*? -- ")
PROGRAM = re.compile(r"(?:python|torchrun --nproc-per-node 2) -m ([\w.]+)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the documents name: photographs, a data set of them, eye tracking, a CIFAR tar."""
    for name in ("PHOTOS", "VAL", "imagenette128/train", "imagenette128/val", "imagenet/val"):
        class_folders(tmp_path / name)
    make_dataset(tmp_path / "DATASET", [16, 8], CLASSES)
    make_people(tmp_path / "EYECROWD", 12)
    names = [f"{number}.jpg" for number in range(1001, 1007)]
    looks = [osie.subject((20, 15, 200), (40 + person, 30, 250)) for person in range(3)]
    osie.write(tmp_path / "OSIE", dict.fromkeys(names, looks), stimuli=names)
    salicon.first_release(tmp_path / "SALICON", each=4)
    class_folders(tmp_path / "cifar10-test", side=32)
    shutil.make_archive(str(tmp_path / "cifar10-test"), "tar", tmp_path / "cifar10-test")
    return tmp_path


def class_folders(folder: Path, side: int = 64) -> None:
    for number in range(CLASSES * EACH):
        path = folder / COLOURS[number % CLASSES] / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(disc_sample(number, CLASSES, width=side, height=side).jpeg)


def follow(document: str, folder: Path, only: str = "", **settings: str) -> list[str]:
    """Do what a document says, in those blocks that have `only`; returns the programs that it called, in order."""
    called, names = [], {"BUCKET": settings.pop("bucket", "BUCKET"), "PREFIX": "imagenet-attn", "PRICE": "1.5"}
    settings = shell(folder, **settings)
    for language, block in blocks(ROOT / document):
        if only not in block:
            continue
        for name, value in names.items():
            block = block.replace(name, value)
        if language == "python":
            do(["python", "-c", block], folder, settings)
        elif language == "":
            for line in dict.fromkeys(lines(block)):
                words, program = typed(line)
                if program:
                    shutil.rmtree(folder / made_anew(program, words), ignore_errors=True)
                    do(["bash", "-c", words], folder, settings)
                    called.append(program)
    return called


def shell(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of somebody who has activated the project's own."""
    return environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin", HF_HOME=str(folder / "hf"), **settings)


def typed(line: str) -> tuple[str, str]:
    """What to type for a line of a document, and the project's program that it calls; nothing of other lines."""
    line = line.partition(" # ")[0]
    here = SUBMIT.sub("", line)
    program = PROGRAM.match(here)
    if program is None or "..." in line:
        return "", ""
    more = [SHORTER.get(program[1], ""), HERE[program[1]] if here != line else ""]
    return " ".join([here, *more]), program[1]


def made_anew(program: str, words: str) -> str:
    """The output of a call that begins something new, where another of the document's has used the same name."""
    output = re.search(r"--output (\w+)", words)
    return output[1] if output and program in ("labeler.run", "trainer.run") else "nothing"


def do(words: list[str], folder: Path, settings: dict[str, str]) -> None:
    done = subprocess.run(words, cwd=folder, env=settings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    print(words[-1], "\n", done.stdout)


def test_the_readme(folder: Path, s3: S3Server, bucket: str) -> None:
    upload(folder / "PHOTOS", s3, bucket, "imagenet/train")
    called = follow("README.md", folder, bucket=bucket, **s3.environment())
    assert {"labeler.run", "labeler.verify", "trainer.run", "trainer.export", "trainer.evaluate"} < set(called)
    assert {"trainer.table", "trainer.search"} < set(called)
    assert "<svg" in (folder / "REPORT/index.html").read_text()


def test_the_teachers_guide(folder: Path) -> None:
    assert follow("labeler/teacher/README.md", folder) == [
        "labeler.teacher.train",
        "labeler.run",
        "labeler.teacher.evaluate",
    ]


def test_the_trainers_guide(folder: Path, s3: S3Server, bucket: str) -> None:
    upload(folder / "DATASET", s3, bucket, "imagenet-attn")
    called = follow("trainer/README.md", folder, bucket=bucket, **s3.environment())
    assert called.count("trainer.run") == 5
    assert called.count("trainer.export") == 3


def test_the_evaluations_guide(folder: Path) -> None:
    for run in ("RUN", "OTHER"):
        do(["bash", "-c", f"python -m trainer.run --data DATASET --output {run} {TRAINING}"], folder, shell(folder))
    assert follow("trainer/evaluate/README.md", folder) == ["trainer.evaluate"] * 2


def test_the_readers_guide_and_that_of_clusters(folder: Path, s3: S3Server, bucket: str) -> None:
    upload(folder / "PHOTOS", s3, bucket, "imagenet/train")
    called = follow("deploy/README.md", folder, bucket=bucket, **s3.environment())
    assert set(called) == {f"labeler.{name}" for name in ("run", "verify", "preview", "stats", "retry")}
    follow("labeler/README.md", folder, "BUCKET", bucket=bucket, **s3.environment())  # the others: test_readers.py


def upload(folder: Path, s3: S3Server, bucket: str, prefix: str) -> None:
    client = s3.client()
    for path in folder.rglob("*.*"):
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
