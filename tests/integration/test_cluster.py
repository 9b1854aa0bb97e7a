"""Tests of `python -m labeler.run` submitted to a Ray cluster of several nodes, which alone have the credentials."""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from common.manifest import Plan, ShardRecord
from labeler.distributed.metrics import METRIC_DESCRIPTIONS
from labeler.verify import verify_dataset
from tests.support.clusters import Cluster, Submission
from tests.support.data.datasets import make_dataset
from tests.support.data.pictures import encoded, jpeg
from tests.support.jobs import SHARDS, checksums, command, label_command, photographs
from tests.support.s3_server import S3Server
from tests.support.teachers import TEACHER_FAULT, TEACHER_SECONDS
from trainer.run_metrics import METRIC_DESCRIPTIONS as TRAINER_METRICS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the nodes' processes in /proc"),
]
SLOW = {TEACHER_SECONDS: "0.1"}  # for each image, so that there is time to disturb a run
TIMEOUT = 180  # seconds for a job to do what a test waits for
METRICS_DELAY = 15  # seconds until a node exports the last metrics of a process that has ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def shared_cluster(guarded_s3: S3Server) -> Iterator[Cluster]:
    with Cluster(**guarded_s3.environment()) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """A head and two nodes with a CPU each, restored after earlier tests. Only the nodes' environment has S3 keys."""
    shared_cluster.fill()
    return shared_cluster


def assert_complete(job: Submission, output: Path, clean: Path) -> None:
    """Assert that the job succeeds, and that its output has exactly the files of the clean run."""
    assert job.wait(TIMEOUT) == 0, job.log
    assert "Traceback" not in job.log
    assert checksums(output) == checksums(clean)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in clean.iterdir())
    assert verify_dataset(str(output), workers=1)["problems"] == []


def wait_for_first_record(job: Submission, output: Path) -> None:
    wait_until(lambda: any(output.glob("records/*.json")) or job.poll() is not None, job)
    assert 0 < len(list(output.glob("records/*.json"))) < SHARDS / 2, job.log


def wait_until(condition: Callable[[], bool], job: Submission) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"waited {TIMEOUT} s in vain; the job's log:\n{job.log}"
        time.sleep(0.05)


@pytest.mark.parametrize("kill", [Cluster.kill_labeling_worker, Cluster.kill_node], ids=["worker", "node"])
def test_killed_worker_or_node_does_not_change_the_data_set(
    kill: Callable[[Cluster], object], cluster: Cluster, images: Path, clean: Path, tmp_path: Path
) -> None:
    job = cluster.submit(*label_command(images, tmp_path / "out"), **SLOW)
    wait_for_first_record(job, tmp_path / "out")
    kill(cluster)
    assert_complete(job, tmp_path / "out", clean)


def test_concurrent_jobs_make_one_data_set(cluster: Cluster, images: Path, clean: Path, tmp_path: Path) -> None:
    """The jobs also compete for the CPUs."""
    jobs = [cluster.submit(*label_command(images, tmp_path / "out"), **SLOW) for _ in range(2)]
    for job in jobs:
        assert job.wait(TIMEOUT) == 0, job.log
    for job in jobs:
        assert_complete(job, tmp_path / "out", clean)


def test_request_for_gpus_that_the_cluster_lacks_fails(cluster: Cluster, images: Path, tmp_path: Path) -> None:
    job = cluster.submit(*label_command(images, tmp_path / "out", gpus_per_worker=1, wait_for_machines=2))
    wait_until(lambda: "plan: " in job.log or job.poll() is not None, job)
    assert job.wait(60) == 1, job.log
    assert "error: --gpus-per-worker 1: a machine of this cluster has 0 GPUs at most (waited 2 s" in job.log
    assert "Traceback" not in job.log
    assert list(checksums(tmp_path / "out")) == ["listing.parquet", "plan.json"]


def test_trial_of_a_search_fits_on_one_machine_and_credentials_stay_on_theirs(
    cluster: Cluster, guarded_s3: S3Server, tmp_path: Path
) -> None:
    """The machines have one CPU each, so a trial that needs two CPUs would wait forever."""
    settings = {"backbone": "resnet18", "image_size": 32, "batch_size": 8, "epochs": 1, "warmup_epochs": 0, "trials": 1}
    data = make_dataset(tmp_path / "data", [8, 8])
    job = cluster.submit(*command(module="trainer.search", data=data, output=tmp_path / "search", **settings))
    assert job.wait(TIMEOUT) == 0, job.log
    assert "best of 1 trial: --kld-weight" in job.log
    assert_no_log_contains(guarded_s3.secret_key, cluster)


def test_metrics_count_every_image_and_shard(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    """There are damaged images, and a shard that is set aside, so that every metric has a value."""
    images, output = photographs(folder / "with failures", 30), tmp_path / "out"
    (images / "black.jpg").write_bytes(encoded(Image.new("RGB", (80, 60)), "JPEG"))
    (images / "cut.jpg").write_bytes(jpeg(80, 60, seed=1)[:-200])
    (images / "text.jpg").write_text("no image")
    job = cluster.submit(
        *label_command(images, output, teacher="tests.support.teachers:faulty_teacher"), **{TEACHER_FAULT: "raise"}
    )
    series: dict[tuple[str, ...], float] = {}

    def collect() -> Counter[str]:
        """Return the totals of the last value of each series collected so far; a series ends with its process."""
        for sample in cluster.metrics():
            if sample.labels.get("dataset") == str(output):
                series[sample.name, *sample.labels.values()] = sample.value
        totals = Counter[str]()
        for (name, *_), value in series.items():
            totals[name.removeprefix("ray_")] += value
        return totals

    while job.poll() is None:
        collect()
        time.sleep(1)
    assert job.wait(TIMEOUT) == 1, job.log
    records = [ShardRecord.model_validate_json(path.read_bytes()) for path in output.glob("records/*.json")]
    plan = Plan.model_validate_json((output / "plan.json").read_bytes())
    expected = {
        "labeler_images_total": sum(record.samples for record in records),
        "labeler_failures_total": sum(len(record.failed) for record in records),
        "labeler_shards_total": plan.shards - 1,
        "labeler_shards_failed_total": 1,
        "labeler_bytes_total": sum(record.bytes for record in records),
        "labeler_phase_seconds_total": pytest.approx(sum(sum(record.seconds.values()) for record in records)),
        "labeler_images_planned": plan.images,
        "labeler_shards_planned": plan.shards,
    }
    assert expected.keys() == METRIC_DESCRIPTIONS.keys()
    assert len(records) == plan.shards - 1
    end = time.monotonic()
    while collect() != expected and time.monotonic() < end + METRICS_DELAY:
        time.sleep(0.5)
    assert collect() == expected


def test_training_exports_its_metrics(cluster: Cluster, tmp_path: Path) -> None:
    data, output = make_dataset(tmp_path / "data", [8, 8]), tmp_path / "run"
    settings = {"backbone": "resnet18", "image_size": 32, "batch_size": 8, "epochs": 100, "warmup_epochs": 1}
    job = cluster.submit(*command(module="trainer.run", data=data, output=output, workers=2, **settings))
    exported = dict[str, float]()

    def collect() -> bool:
        for sample in cluster.metrics():
            if sample.labels.get("run") == str(output) or sample.name.startswith("ray_node_"):
                exported[sample.name] = sample.value
        return exported.keys() >= {f"ray_{name}" for name in TRAINER_METRICS}

    wait_until(lambda: collect() or job.poll() is not None, job)
    assert exported.keys() >= {f"ray_{name}" for name in TRAINER_METRICS}, job.log
    assert exported["ray_trainer_steps_planned"] == 200
    assert 0 < exported["ray_trainer_step"] <= 200
    assert exported["ray_trainer_images_per_second"] > 0
    board = (Path(__file__).parents[2] / "deploy/grafana.json").read_text()
    machines = set(re.findall(r"ray_node_\w+", board)) - {"ray_node_gpus_utilization"}  # there is no GPU
    assert machines
    assert machines <= exported.keys()
    assert job.wait(TIMEOUT) == 0, job.log


def test_from_s3_to_s3_with_credentials_only_on_the_nodes(
    cluster: Cluster, guarded_s3: S3Server, images: Path, clean: Path
) -> None:
    bucket, client = guarded_s3.new_bucket(), guarded_s3.client()
    for path in images.rglob("*.jpg"):
        client.put_object(Bucket=bucket, Key=f"images/{path.relative_to(images)}", Body=path.read_bytes())
    job = cluster.submit(*label_command(f"s3://{bucket}/images", f"s3://{bucket}/out"))
    assert job.wait(TIMEOUT) == 0, job.log
    objects = {
        item["Key"].removeprefix("out/"): client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        for item in client.list_objects_v2(Bucket=bucket, Prefix="out/")["Contents"]
    }
    tars = {name: hashlib.sha256(content).hexdigest() for name, content in objects.items() if name.endswith(".tar")}
    assert tars == {name: checksum for name, checksum in checksums(clean).items() if name.endswith(".tar")}
    assert objects.keys() == {path.relative_to(clean).as_posix() for path in clean.rglob("*") if path.is_file()}
    secret = guarded_s3.secret_key
    assert not [name for name, content in objects.items() if secret.encode() in content]
    assert secret not in job.log
    assert_no_log_contains(secret, cluster)


def assert_no_log_contains(secret: str, cluster: Cluster) -> None:
    logs = [path for path in cluster.folder.rglob("logs/*") if path.is_file()]
    assert logs
    assert not [path for path in logs if secret.encode() in path.read_bytes()]
