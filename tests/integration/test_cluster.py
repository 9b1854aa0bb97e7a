"""`python -m labeler.run` submitted to a Ray cluster of several nodes; no credential leaves the nodes' environment."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from common.manifest import Plan, ShardRecord
from labeler.distributed.metrics import METRICS
from labeler.verify import verify_dataset
from tests.support.clusters import Cluster, Submission
from tests.support.datasets import make_dataset
from tests.support.jobs import SHARDS, checksums, command, label, photographs
from tests.support.pictures import encoded, jpeg
from tests.support.s3_server import S3Server
from tests.support.teachers import FAULT, SECONDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="tells the nodes' processes by /proc"),
]
SLOW = {SECONDS: "0.1"}  # for each image, so that a run has a middle
PATIENCE = 180  # seconds until a job has done what a test waits for
FLUSH = 15  # seconds until a node tells the last metrics of a process that has ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def shared_cluster(guarded_s3: S3Server) -> Iterator[Cluster]:
    with Cluster(**guarded_s3.environment()) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """A head and two nodes with a CPU each, whatever the tests before did; only their environment has keys to S3."""
    shared_cluster.fill()
    return shared_cluster


def assert_complete(job: Submission, output: Path, clean: Path) -> None:
    """The job succeeds, and every file is that of the clean run, with nothing beside them."""
    assert job.wait(PATIENCE) == 0, job.log
    assert "Traceback" not in job.log
    assert checksums(output) == checksums(clean)
    assert sorted(path.name for path in output.iterdir()) == sorted(path.name for path in clean.iterdir())
    assert verify_dataset(str(output), workers=1)["problems"] == []


def wait_for_first_record(job: Submission, output: Path) -> None:
    wait_until(lambda: any(output.glob("records/*.json")) or job.poll() is not None, job)
    assert 0 < len(list(output.glob("records/*.json"))) < SHARDS / 2, job.log


def wait_until(condition: Callable[[], bool], job: Submission) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain; the job's log:\n{job.log}"
        time.sleep(0.05)


@pytest.mark.parametrize("kill", [Cluster.kill_labelling_worker, Cluster.kill_node], ids=["worker", "node"])
def test_killed_worker_or_node_that_is_never_replaced_costs_nothing_but_time(
    kill: Callable[[Cluster], object], cluster: Cluster, images: Path, clean: Path, tmp_path: Path
) -> None:
    job = cluster.submit(*label(images, tmp_path / "out"), **SLOW)
    wait_for_first_record(job, tmp_path / "out")
    kill(cluster)
    assert_complete(job, tmp_path / "out", clean)


def test_two_jobs_at_once_make_one_data_set(cluster: Cluster, images: Path, clean: Path, tmp_path: Path) -> None:
    """They compete for the CPUs too."""
    jobs = [cluster.submit(*label(images, tmp_path / "out"), **SLOW) for _ in range(2)]
    for job in jobs:
        assert job.wait(PATIENCE) == 0, job.log
    for job in jobs:
        assert_complete(job, tmp_path / "out", clean)


def test_gpus_that_the_cluster_lacks_are_refused(cluster: Cluster, images: Path, tmp_path: Path) -> None:
    job = cluster.submit(*label(images, tmp_path / "out", gpus_per_worker=1, wait_for_machines=2))
    wait_until(lambda: "plan: " in job.log or job.poll() is not None, job)
    assert job.wait(60) == 1, job.log
    assert "error: --gpus-per-worker 1: a machine of this cluster has 0 GPUs at most (waited 2 s" in job.log
    assert "Traceback" not in job.log
    assert list(checksums(tmp_path / "out")) == ["listing.parquet", "plan.json"]


def test_a_searchs_trial_takes_no_more_than_one_machine(cluster: Cluster, tmp_path: Path) -> None:
    """Of machines with a CPU each, two between them would never be free on one."""
    settings = {"backbone": "resnet18", "image_size": 32, "batch_size": 8, "epochs": 1, "warmup_epochs": 0, "trials": 1}
    data = make_dataset(tmp_path / "data", [8, 8])
    job = cluster.submit(*command(module="trainer.search", data=data, output=tmp_path / "search", **settings))
    assert job.wait(PATIENCE) == 0, job.log
    assert "best of 1 trials: --kld-weight" in job.log


def test_metrics_tell_what_became_of_every_image(cluster: Cluster, folder: Path, tmp_path: Path) -> None:
    """Damaged images, and a shard that is set aside, so that every metric has something to tell."""
    images, output = photographs(folder / "some bad", 30), tmp_path / "out"
    (images / "black.jpg").write_bytes(encoded(Image.new("RGB", (80, 60)), "JPEG"))
    (images / "cut.jpg").write_bytes(jpeg(80, 60, seed=1)[:-200])
    (images / "text.jpg").write_text("no image")
    job = cluster.submit(*label(images, output, teacher="tests.support.teachers:faulty_teacher"), **{FAULT: "raise"})
    series: dict[tuple[str, ...], float] = {}

    def collect() -> Counter[str]:
        """The totals of what was collected so far: the last value of each series, as some end with their process."""
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
    assert job.wait(PATIENCE) == 1, job.log
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
    assert expected.keys() == METRICS.keys()
    assert len(records) == plan.shards - 1
    end = time.monotonic()
    while collect() != expected and time.monotonic() < end + FLUSH:
        time.sleep(0.5)
    assert collect() == expected


def test_from_s3_to_s3_with_credentials_of_the_nodes_alone(
    cluster: Cluster, guarded_s3: S3Server, images: Path, clean: Path
) -> None:
    bucket, client = guarded_s3.new_bucket(), guarded_s3.client()
    for path in images.rglob("*.jpg"):
        client.put_object(Bucket=bucket, Key=f"images/{path.relative_to(images)}", Body=path.read_bytes())
    job = cluster.submit(*label(f"s3://{bucket}/images", f"s3://{bucket}/out"))
    assert job.wait(PATIENCE) == 0, job.log
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
    logs = [path for path in cluster.folder.rglob("logs/*") if path.is_file()]
    assert logs
    assert not [path for path in logs if secret.encode() in path.read_bytes()]
