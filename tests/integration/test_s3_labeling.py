"""Tests of `python -m labeler.run` from and to S3, started as users do."""

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
TIMEOUT = 180  # seconds for a run to do what a test waits for


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("images"), IMAGES, classes=2)


@pytest.fixture(scope="module")
def clean(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of the data set of an undisturbed local run."""
    output = tmp_path_factory.mktemp("clean") / "out"
    done = run(label_command(images, output))
    assert done.returncode == 0, done.stderr
    return checksums(output)


@pytest.fixture
def store(guarded_s3: S3Server, images: Path) -> "Store":
    return Store(guarded_s3, images)


class Store:
    """A bucket with the images below `in/`, and a data set to be made below `out/`."""

    def __init__(self, server: S3Server, images: Path) -> None:
        self.server, self.bucket = server, server.new_bucket()
        self.client = server.client()
        self.input, self.output = f"s3://{self.bucket}/in", f"s3://{self.bucket}/out"
        for path in images.rglob("*.jpg"):
            key = f"in/{path.relative_to(images).as_posix()}"
            self.client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())

    def objects(self) -> dict[str, bytes]:
        """Return the content of the data set's objects by name."""
        answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix="out/")
        keys = [item["Key"] for item in answer.get("Contents", [])]
        return {
            key.removeprefix("out/"): self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys
        }

    def checksums(self) -> dict[str, str]:
        """Return the checksums of the data set's objects, as `tests.support.jobs.checksums` does for files."""
        return {
            name: hashlib.sha256(content).hexdigest()
            for name, content in self.objects().items()
            if not name.startswith(("records/", "progress.json"))
        }


def label_command(source: object, output: object, **settings: object) -> list[str]:
    return command(
        **{"input": source, "output": output, "teacher": TEACHER, "samples_per_shard": PER_SHARD, "workers": 1}
        | settings
    )


def assert_same(found: dict[str, str], clean: dict[str, str]) -> None:
    """Assert that both have the same files, except for plan.json, which contains the location of the input."""
    assert {**found, "plan.json": ""} == {**clean, "plan.json": ""}


def assert_valid(store: Store) -> None:
    done = run(command(store.output, module="labeler.verify", workers=1), **store.server.environment())
    assert done.returncode == 0, done.stdout


def test_from_s3_to_s3_makes_the_bytes_of_a_local_run_without_leaking_credentials(
    store: Store, clean: dict[str, str]
) -> None:
    done = run(label_command(store.input, store.output), **store.server.environment())
    assert done.returncode == 0, done.stderr
    assert_same(store.checksums(), clean)
    assert_valid(store)
    secrets = [store.server.secret_key.encode(), store.server.access_key.encode() + b":"]
    texts = [done.stdout.encode(), done.stderr.encode(), *store.objects().values()]
    assert not any(secret in text for secret in secrets for text in texts)
    page = run(command(store.output, module="labeler.preview", to=os.devnull), **store.server.environment())
    assert page.returncode == 0, page.stderr


@pytest.mark.promise
@pytest.mark.slow
def test_faults_of_the_store_do_not_change_the_data_set(store: Store, clean: dict[str, str]) -> None:
    with FaultProxy(store.server) as proxy:
        faults = [Status(500, "InternalError"), Status(503, "SlowDown"), Reset(), Reset(after=True), Truncate(500)]
        proxy.random(seed=7, rate=0.2, faults=faults)
        done = run(label_command(store.input, store.output), **proxy.environment())
        assert done.returncode == 0, done.stderr
        assert sum(bool(request.faults) for request in proxy.requests) > 10
    assert_same(store.checksums(), clean)
    assert_valid(store)


@pytest.mark.slow
def test_killed_runs_can_be_resumed(store: Store, clean: dict[str, str]) -> None:
    for _ in range(KILLS):
        process = start(label_command(store.input, store.output), TEACHER_SECONDS="0.1", **store.server.environment())
        wait_for_another_record(process, store)
        time.sleep(random.uniform(0, 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert_valid(store)
    done = run(label_command(store.input, store.output, workers=2), **store.server.environment())
    assert done.returncode == 0, done.stderr
    assert_same(store.checksums(), clean)


def wait_for_another_record(process: subprocess.Popen[str], store: Store) -> None:
    before, deadline = count_records(store), time.monotonic() + TIMEOUT
    while count_records(store) == before and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def count_records(store: Store) -> int:
    answer = store.client.list_objects_v2(Bucket=store.bucket, Prefix="out/records/")
    return len(answer.get("Contents", []))


@pytest.mark.slow
def test_run_can_be_resumed_after_its_credentials_expired(store: Store, clean: dict[str, str]) -> None:
    with FaultProxy(store.server) as proxy:
        process = start(label_command(store.input, store.output), TEACHER_SECONDS="0.1", **proxy.environment())
        wait_for_another_record(process, store)
        proxy.add(Status(400, "ExpiredToken"), times=None)
        printed, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode in (1, 2), errors
    assert "ExpiredToken" in printed + errors
    assert "have expired: renew them" in printed + errors
    assert "Traceback" not in printed + errors
    assert_valid(store)
    done = run(label_command(store.input, store.output), **store.server.environment())
    assert done.returncode == 0, done.stderr
    assert_same(store.checksums(), clean)


def assert_refused(line: list[str], *words: str, **environment: str) -> None:
    """Assert that a command fails within a minute, with exit code 2 and one line that contains all words."""
    begin = time.monotonic()
    done = run(line, **environment)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert time.monotonic() - begin < 60
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_unusable_locations_and_credentials_are_refused_before_labeling(
    store: Store, images: Path, tmp_path: Path
) -> None:
    environment = store.server.environment()
    assert_refused(
        label_command("s3://no-such-bucket-at-all/in", tmp_path), "no-such-bucket-at-all", "NoSuchBucket", **environment
    )
    assert_refused(label_command(f"s3://{store.bucket}/elsewhere", tmp_path / "out"), "no images found", **environment)
    assert_refused(label_command(store.input, f"{store.input}/out"), "lies inside", **environment)
    assert_refused(label_command(images, store.output), "s3:PutObject", **store.server.readonly_environment())
    wrong = {**environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
    assert_refused(label_command(images, store.output), "are not valid at this endpoint", **wrong)
    assert store.objects() == {}


def test_hanging_endpoint_is_refused_within_a_minute(store: Store, images: Path) -> None:
    with FaultProxy(store.server) as proxy:
        proxy.add(Hang(), times=None)
        assert_refused(
            label_command(images, store.output), "Read timeout", "Check AWS_ENDPOINT_URL", **proxy.environment()
        )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("needs permission to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_scratch_disk_is_refused_and_the_plan_remains(store: Store, images: Path, small_disk: Path) -> None:
    space = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(space - 150_000))
    environment: dict[str, Any] = {**store.server.environment(), "TMPDIR": str(small_disk)}
    assert_refused(label_command(images, store.output), "scratch space", "TMPDIR", **environment)
    assert set(store.objects()) == {"plan.json", "listing.parquet"}
