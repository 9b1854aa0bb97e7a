"""Label, train and evaluate on a Ray cluster, from S3 to S3, and kill a worker of each job while it runs.

    make cluster-demo

A head and two nodes run on this machine, next to an S3 server. The commands are those of the deployment guide
(README.md): on a cluster of your own, run each `ray start` on its machine, and use your bucket in place of the server.

The exit code is 0 if the three jobs end with 0 although a worker of each was killed, and their results are complete.
Everything is stopped and removed at the end, also after Ctrl-C or an error.
"""

import contextlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from common.sources.demo import demo_folder
from tests.support.clusters import free_ports, kill_all, wait_until
from tests.support.s3_server import S3Server

TRAIN_IMAGES, VAL_IMAGES = 20, 10  # rendered scenes of each of the ten classes
MARK = "CLUSTER_DEMO"  # environment variable by which processes of the cluster are found at the end
SETTINGS = ("RAY_", "AWS_", "LABELER_", "TRAINER_")  # environment variables of this shell that do not reach the nodes

HEAD = "--head --num-cpus 0 --port {port} --dashboard-port {dashboard} --ray-client-server-port {client}"
NODE = "--num-cpus 1 --address 127.0.0.1:{port}"
# nodes on one machine need folders and ports of their own; nodes on several machines do not need these options
ONE_MACHINE = """ --block --disable-usage-stats --object-store-memory 100000000 --temp-dir {folder}
    --min-worker-port 0 --max-worker-port 0 --dashboard-agent-listen-port {ports[0]}
    --dashboard-agent-grpc-port {ports[1]} --runtime-env-agent-port {ports[2]} --metrics-export-port {ports[3]}"""
SUBMIT = "ray job submit --address {url} --runtime-env deploy/runtime-env.yaml -- "
VERIFY = "python -m labeler.verify s3://{bucket}/labels"


class Job(NamedTuple):
    """A job that loses a worker."""

    command: str
    worker: str  # part of the class name of the Ray actors that do the work
    progress: str  # one of these actors is killed once there is an object in the bucket whose key starts with this


JOBS = (
    Job(
        "python -m labeler.run --input s3://{bucket}/scenes/train --output s3://{bucket}/labels --samples-per-shard 20",
        worker="LabelWorker",
        progress="labels/records/",
    ),
    Job(
        "python -m trainer.run --data s3://{bucket}/labels --output s3://{bucket}/run --backbone resnet18 "
        "--image-size 64 --batch-size 40 --epochs 2 --warmup-epochs 0.5 --checkpoint-every 2 --workers 2",
        worker="RayTrainWorker",
        progress="run/checkpoints/last",
    ),
    Job(
        "python -m trainer.evaluate s3://{bucket}/run/checkpoints/last --suite linear,retrieval --queries 50 "
        "--train s3://{bucket}/labels --val s3://{bucket}/scenes/val --image-size 128 --output s3://{bucket}/report "
        "--workers 2",
        worker="ExtractionWorker",
        progress="scenes/",  # at once: this job writes its first object when the work of its actors is done
    ),
)


class Cluster(NamedTuple):
    """A running Ray cluster: the URL of its dashboard, and the environment with which programs reach it."""

    url: str
    environment: dict[str, str]

    def submit(self, command: str) -> subprocess.Popen[bytes]:
        """Submit a job. The returned process prints the job's log and ends with its exit code."""
        report(command)
        return subprocess.Popen(shlex.split(SUBMIT.format(url=self.url) + command), env=self.environment)

    def has_nodes(self, count: int) -> bool:
        """Return whether this is the number of nodes, with the head."""
        return len(self.list_alive("nodes")) == count

    def list_alive(self, kind: str) -> list[dict[str, Any]]:
        """Return the living `nodes` or `actors`, as `ray list` shows them; none if the head does not answer."""
        token = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self.url}/api/v0/{kind}", headers=token)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
            return [item for item in json.load(answer)["data"]["result"]["result"] if item["state"] == "ALIVE"]
        return []


def main() -> None:
    """Run the demo. Exits with a message and code 1 if something does not end as it should."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with contextlib.ExitStack() as stack:
        report("start an S3 server, and upload rendered scenes")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="demo", dir="/tmp")))  # short, for sockets
        store = S3Server.start(folder / "s3")
        stack.callback(store.stop)
        bucket, client = store.new_bucket(), store.client()
        upload_scenes(client, bucket)
        cluster = start_cluster(folder, store.environment(), stack)
        for job in JOBS:
            run_and_kill_worker(job, cluster, client, bucket)
        if cluster.submit(VERIFY.format(bucket=bucket)).wait():
            sys.exit("the data set has problems")
        report("three jobs ended with exit code 0, although a worker of each was killed; stop everything")


def stop(number: int, frame: object) -> NoReturn:
    """Exit because of a signal, which stops everything that was started; another signal does not interrupt that."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    sys.exit(128 + number)


def upload_scenes(client: Any, bucket: str) -> None:
    """Upload rendered scenes in class folders, some for training and some for validation."""
    for path in sorted(demo_folder("scenes").rglob("*.jpg")):
        number = int(path.stem.rpartition("_")[2])
        split = "train" if number < TRAIN_IMAGES else "val"
        if number < TRAIN_IMAGES + VAL_IMAGES:
            client.upload_file(str(path), bucket, f"scenes/{split}/{path.parent.name}/{path.name}")


def start_cluster(folder: Path, credentials: dict[str, str], stack: contextlib.ExitStack) -> Cluster:
    """Start a head and two nodes, which alone have the credentials of the store. They end with the stack."""
    port, dashboard, client = free_ports(3)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", MARK: folder.name}
    environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
    cluster = Cluster(f"http://127.0.0.1:{dashboard}", environment)
    stack.callback(kill_all, f"{MARK}={folder.name}\0")  # programs of jobs are not in the process group of their node
    for number, options in enumerate((HEAD, NODE, NODE), 1):
        command = "ray start " + options.format(port=port, dashboard=dashboard, client=client)
        report(command)
        command += ONE_MACHINE.format(folder=folder / f"{number}", ports=free_ports(4))
        log = folder / f"{number}.log"
        with log.open("wb") as file:
            node = subprocess.Popen(
                shlex.split(command), env=environment | credentials, stdout=file, stderr=file, start_new_session=True
            )
        stack.callback(node.wait)
        stack.callback(os.killpg, node.pid, signal.SIGKILL)
        wait_until(partial(cluster.has_nodes, number), "the node has joined", log.read_text)
    return cluster


def run_and_kill_worker(job: Job, cluster: Cluster, client: Any, bucket: str) -> None:
    """Submit a job, kill one of its workers, and wait for the job's end. Exits with a message if the job fails."""
    process = cluster.submit(job.command.format(bucket=bucket))
    try:
        workers = list[dict[str, Any]]()
        while not (workers and "Contents" in client.list_objects_v2(Bucket=bucket, Prefix=job.progress)):
            if process.poll() is not None:
                sys.exit(f"the job ended with {process.returncode} before one of its workers could be killed")
            time.sleep(0.2)
            workers = [actor for actor in cluster.list_alive("actors") if job.worker in actor["class_name"]]
        os.kill(workers[0]["pid"], signal.SIGKILL)
        report(f"killed process {workers[0]['pid']}, the actor {workers[0]['class_name']}")
        if process.wait():
            sys.exit(f"the job ended with {process.returncode}, expected 0")
    finally:
        process.kill()


def report(message: str) -> None:
    """Print what the demo does, with the time, so that it stands out from the logs of the jobs."""
    print(f"\n=== {time.strftime('%H:%M:%S')} {message}", flush=True)


if __name__ == "__main__":
    main()
