"""Tests that the documented commands and Python examples work in their order, with settings that make them short.

Jobs that a document submits to a cluster run on this machine. Commands of other programs (make, pip, docker, aws) are
skipped.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common.fixations import osie, salicon
from tests.support.data.datasets import COLORS, disc_sample, make_dataset
from tests.support.data.people import write_people_csv
from tests.support.documents import blocks, lines
from tests.support.jobs import ROOT, environment
from tests.support.s3_server import S3Server

pytestmark = pytest.mark.slow

CLASSES, IMAGES_PER_CLASS = 3, 8
SHORT_TRAINING = "--image-size 48 --batch-size 8 --epochs 1 --warmup-epochs 0"
SHORT_SETTINGS = {  # added to each command
    "labeler.run": "--samples-per-shard 8",
    "labeler.teacher.train": "--batch-size 2 --epochs 1 --input-scale 0.2",
    "trainer.run": SHORT_TRAINING,
    "trainer.table": f"{SHORT_TRAINING} --human-batch-size 4 --seeds 1",
    "trainer.search": f"{SHORT_TRAINING} --trials 1",
    "trainer.evaluate": "--images 6 --queries 5",
}
LOCAL_SETTINGS = {  # added to commands that a document submits to a cluster
    "labeler.run": "--workers 1 --gpus-per-worker 0",
    "trainer.run": "--workers 1",
}
SUBMISSION = re.compile(r"^ray job submit .*? -- ")
PROGRAM = re.compile(r"(?:python|torchrun --nproc-per-node 2) -m ([\w.]+)")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the inputs that the documents name: photographs, a data set, eye tracking, a CIFAR-10 tar."""
    for name in ("PHOTOS", "VAL", "imagenette128/train", "imagenette128/val", "imagenet/val"):
        write_class_folders(tmp_path / name)
    make_dataset(tmp_path / "DATASET", [16, 8], CLASSES)
    write_people_csv(tmp_path / "EYECROWD", 12)
    names = [f"{number}.jpg" for number in range(1001, 1007)]
    fixations = [osie.subject((20, 15, 200), (40 + person, 30, 250)) for person in range(3)]
    osie.write(tmp_path / "OSIE", dict.fromkeys(names, fixations), stimuli=names)
    salicon.write_release_2015(tmp_path / "SALICON", each=4)
    write_class_folders(tmp_path / "cifar10-test", side=32)
    shutil.make_archive(str(tmp_path / "cifar10-test"), "tar", tmp_path / "cifar10-test")
    return tmp_path


def write_class_folders(folder: Path, side: int = 64) -> None:
    for number in range(CLASSES * IMAGES_PER_CLASS):
        path = folder / COLORS[number % CLASSES] / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(disc_sample(number, CLASSES, width=side, height=side).jpeg)


def follow_document(document: str, folder: Path, only: str = "", **settings: str) -> list[str]:
    """Run the commands and Python examples of a document, in code blocks that contain `only`.

    Returns the names of the programs that were called, in order.
    """
    called, placeholders = [], {"BUCKET": settings.pop("bucket", "BUCKET"), "PREFIX": "imagenet-attn", "PRICE": "1.5"}
    settings = shell_environment(folder, **settings)
    for language, block in blocks(ROOT / document):
        if only not in block:
            continue
        for name, value in placeholders.items():
            block = block.replace(name, value)
        if language == "python":
            run_command(["python", "-c", block], folder, settings)
        elif language == "bash":
            for line in dict.fromkeys(lines(block)):
                words, program = shorten_command(line)
                if program:
                    shutil.rmtree(folder / stale_output(program, words), ignore_errors=True)
                    run_command(["bash", "-c", words], folder, settings)
                    called.append(program)
    return called


def shell_environment(folder: Path, **settings: str) -> dict[str, str]:
    """Return the environment of a shell in which the project's virtual environment is activated."""
    return environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin", HF_HOME=str(folder / "hf"), **settings)


def shorten_command(line: str) -> tuple[str, str]:
    """Return a shortened version of a documented command that runs on this machine, and the program that it calls.

    Both are empty if it calls none of the project's programs.
    """
    line = line.partition(" # ")[0]
    local_line = SUBMISSION.sub("", line)
    program = PROGRAM.match(local_line)
    if program is None or "..." in line:
        return "", ""
    more = [SHORT_SETTINGS.get(program[1], ""), LOCAL_SETTINGS[program[1]] if local_line != line else ""]
    return " ".join([local_line, *more]), program[1]


def stale_output(program: str, words: str) -> str:
    """Return the output folder of a command that must start from scratch although an earlier one used the same name."""
    output = re.search(r"--output (\w+)", words)
    return output[1] if output and program in ("labeler.run", "trainer.run") else "nothing"


def run_command(words: list[str], folder: Path, settings: dict[str, str]) -> None:
    done = subprocess.run(words, cwd=folder, env=settings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    print(words[-1], "\n", done.stdout)


@pytest.mark.promise
def test_readme(folder: Path, s3: S3Server, bucket: str) -> None:
    upload(folder / "PHOTOS", s3, bucket, "imagenet/train")
    called = follow_document("README.md", folder, bucket=bucket, **s3.environment())
    assert {"labeler.run", "labeler.verify", "trainer.run", "trainer.export", "trainer.evaluate"} < set(called)
    assert "<svg" in (folder / "REPORT/index.html").read_text()


def test_results_page(folder: Path) -> None:
    assert follow_document("trainer/evaluate/RESULTS.md", folder) == ["labeler.run", "trainer.table", "trainer.search"]


@pytest.mark.promise
def test_teacher_readme(folder: Path) -> None:
    assert follow_document("labeler/teacher/README.md", folder) == [
        "labeler.teacher.train",
        "labeler.run",
        "labeler.teacher.evaluate",
    ]


def test_trainer_readme(folder: Path, s3: S3Server, bucket: str) -> None:
    upload(folder / "DATASET", s3, bucket, "imagenet-attn")
    called = follow_document("trainer/README.md", folder, bucket=bucket, **s3.environment())
    assert called.count("trainer.run") == 5
    assert called.count("trainer.export") == 3


@pytest.mark.promise
def test_evaluation_readme(folder: Path) -> None:
    for run in ("RUN", "OTHER"):
        run_command(
            ["bash", "-c", f"python -m trainer.run --data DATASET --output {run} {SHORT_TRAINING}"],
            folder,
            shell_environment(folder),
        )
    assert follow_document("trainer/evaluate/README.md", folder) == ["trainer.evaluate"] * 2


def test_deployment_readme_and_s3_examples_of_the_labeler_readme(folder: Path, s3: S3Server, bucket: str) -> None:
    upload(folder / "PHOTOS", s3, bucket, "imagenet/train")
    called = follow_document("deploy/README.md", folder, bucket=bucket, **s3.environment())
    assert set(called) == {f"labeler.{name}" for name in ("run", "verify", "preview", "stats", "retry")}
    # test_readers.py runs the other examples of this document
    follow_document("labeler/README.md", folder, "BUCKET", bucket=bucket, **s3.environment())


def upload(folder: Path, s3: S3Server, bucket: str, prefix: str) -> None:
    client = s3.client()
    for path in folder.rglob("*.*"):
        client.upload_file(str(path), bucket, f"{prefix}/{path.relative_to(folder).as_posix()}")
