"""`python -m labeler.run` from S3 and to S3, as users start it."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import FaultProxy, Hang, Reset, Status, Truncate
from tests.support.jobs import checksums, command, photographs, run, start
from tests.support.s3_server import S3Server

TEACHER = "tests.support.teachers:gradient_teacher"
IMAGES, PER_SHARD = 40, 5
SHARDS = IMAGES // PER_SHARD
KILLS = int(os.environ.get("KILLS", "2"))
PATIENCE = 180  # seconds


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("images"), IMAGES, classes=2)


@pytest.fixture(scope="module")
def clean(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of what a quiet local run makes."""
    output = tmp_path_factory.mktemp("clean") / "out"
    done = run(label(images, output))
    assert done.returncode == 0, done.stderr
    return checksums(output)


@pytest.fixture
def store(guarded_s3: S3Server, images: Path) -> "Store":
    return Store(guarded_s3, images)


class Store:
    """A bucket that holds the images, and room for a data set."""

    def __init__(self, server: S3Server, images: Path) -> None:
        self.server, self.bucket = server, server.new_bucket()
        self.client = server.client()
        self.input, self.output = f"s3://{self.bucket}/in", f"s3://{self.bucket}/out"
        for path in images.rglob("*.jpg"):
            key = f"in/{path.relative_to(images).as_posix()}"
            self.client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())

    def objects(self) -> dict[str, bytes]:
        """The data set's objects by name."""
        answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix="out/")
        keys = [item["Key"] for item in answer.get("Contents", [])]
        return {
            key.removeprefix("out/"): self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys
        }

    def checksums(self) -> dict[str, str]:
        """As tests.support.jobs.checksums; but plan.json names the place of the input."""
        return {
            name: hashlib.sha256(content).hexdigest()
            for name, content in self.objects().items()
            if not name.startswith(("records/", "progress.json"))
        }


def label(source: object, output: object, **settings: object) -> list[str]:
    return command(
        **{"input": source, "output": output, "teacher": TEACHER, "samples_per_shard": PER_SHARD, "workers": 1}
        | settings
    )


def assert_same(found: dict[str, str], clean: dict[str, str]) -> None:
    """But for plan.json, which names the place of the input."""
    assert {**found, "plan.json": ""} == {**clean, "plan.json": ""}


def assert_sound(store: Store) -> None:
    done = run(command(store.output, module="labeler.verify", workers=1), **store.server.environment())
    assert done.returncode == 0, done.stdout


def test_from_s3_to_s3_makes_the_bytes_of_a_local_run_and_shows_no_secret(store: Store, clean: dict[str, str]) -> None:
    done = run(label(store.input, store.output), **store.server.environment())
    assert done.returncode == 0, done.stderr
    assert_same(store.checksums(), clean)
    assert_sound(store)
    secrets = [store.server.secret_key.encode(), store.server.access_key.encode() + b":"]
    told = [done.stdout.encode(), done.stderr.encode(), *store.objects().values()]
    assert not any(secret in text for secret in secrets for text in told)
    page = run(command(store.output, module="labeler.preview", to=os.devnull), **store.server.environment())
    assert page.returncode == 0, page.stderr


@pytest.mark.slow
def test_faults_of_the_store_change_nothing(store: Store, clean: dict[str, str]) -> None:
    with FaultProxy(store.server) as proxy:
        faults = [Status(500, "InternalError"), Status(503, "SlowDown"), Reset(), Reset(after=True), Truncate(500)]
        proxy.random(seed=7, rate=0.2, faults=faults)
        done = run(label(store.input, store.output), **proxy.environment())
        assert done.returncode == 0, done.stderr
        assert sum(bool(request.faults) for request in proxy.requests) > 10
    assert_same(store.checksums(), clean)
    assert_sound(store)


@pytest.mark.slow
def test_killed_runs_are_taken_up(store: Store, clean: dict[str, str]) -> None:
    for _ in range(KILLS):
        process = start(label(store.input, store.output), TEACHER_SECONDS="0.1", **store.server.environment())
        wait_for_another_record(process, store)
        time.sleep(random.uniform(0, 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert_sound(store)
    done = run(label(store.input, store.output, workers=2), **store.server.environment())
    assert done.returncode == 0, done.stderr
    assert_same(store.checksums(), clean)


def wait_for_another_record(process: subprocess.Popen[str], store: Store) -> None:
    before, deadline = records(store), time.monotonic() + PATIENCE
    while records(store) == before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def records(store: Store) -> int:
    answer = store.client.list_objects_v2(Bucket=store.bucket, Prefix="out/records/")
    return len(answer.get("Contents", []))


@pytest.mark.slow
def test_credentials_that_expire_in_mid_run_lose_nothing(store: Store, clean: dict[str, str]) -> None:
    with FaultProxy(store.server) as proxy:
        process = start(label(store.input, store.output), TEACHER_SECONDS="0.1", **proxy.environment())
        wait_for_another_record(process, store)
        proxy.add(Status(400, "ExpiredToken"), times=None)
        told, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode in (1, 2), errors
    assert "ExpiredToken" in told + errors
    assert "have expired: renew them" in told + errors
    assert "Traceback" not in told + errors
    assert_sound(store)
    done = run(label(store.input, store.output), **store.server.environment())
    assert done.returncode == 0, done.stderr
    assert_same(store.checksums(), clean)


def refused(line: list[str], *words: str, **environment: str) -> None:
    """Exit code 2 and one line, within a minute."""
    begin = time.monotonic()
    done = run(line, **environment)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert time.monotonic() - begin < 60
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_what_cannot_work_is_refused_before_anything_starts(store: Store, images: Path, tmp_path: Path) -> None:
    environment = store.server.environment()
    refused(label("s3://no-such-bucket-at-all/in", tmp_path), "no-such-bucket-at-all", "NoSuchBucket", **environment)
    refused(label(f"s3://{store.bucket}/elsewhere", tmp_path / "out"), "no images found", **environment)
    refused(label(store.input, f"{store.input}/out"), "lies inside", **environment)
    refused(label(images, store.output), "s3:PutObject", **store.server.readonly_environment())
    wrong = {**environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    refused(label(images, store.output), "are not this endpoint's", **wrong)
    assert store.objects() == {}


def test_an_endpoint_that_hangs_is_refused_within_a_minute(store: Store, images: Path) -> None:
    with FaultProxy(store.server) as proxy:
        proxy.add(Hang(), times=None)
        refused(label(images, store.output), "Read timeout", "Check AWS_ENDPOINT_URL", **proxy.environment())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_scratch_disk_is_refused_and_nothing_is_lost(store: Store, images: Path, small_disk: Path) -> None:
    space = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(space - 150_000))
    environment: dict[str, Any] = {**store.server.environment(), "TMPDIR": str(small_disk)}
    refused(label(images, store.output), "scratch space", "TMPDIR", **environment)
    assert set(store.objects()) == {"plan.json", "listing.parquet"}
