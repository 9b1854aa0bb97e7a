"""A Ray cluster of several nodes on this machine, to which tests submit jobs as users do; it ends with the test."""

import contextlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.jobs import ROOT
from tests.support.s3_server import END_WITH_PARENT, PORTS

RAY = Path(sys.executable).with_name("ray")
# environment variable of all processes of a node, with the names of cluster and node, by which tests find them
NODE_VARIABLE = "TESTS_RAY_NODE"
OBJECT_STORE_BYTES = 100_000_000  # shared memory of a node; the objects of a job are some kilobytes
TIMEOUT = 90  # seconds for a cluster to start, change or end
NOT_UPLOADED = [".git", ".venv", "runs"]  # parts of the checkout that jobs do not need


class Submission:
    """A submitted job: `ray job submit` follows it to its end, prints its log and exits with its exit code."""

    def __init__(self, line: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def log(self) -> str:
        """The output so far."""
        return self._log.read_text(errors="replace")

    def poll(self) -> int | None:
        """Return the exit code, or None while the job runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Wait for the job's end and return its exit code. Raises TimeoutError with the log."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the job has not ended in {seconds:g} s; its log:\n{self.log}") from None

    def stop_following(self) -> None:
        """End the process that follows the job."""
        self._process.kill()
        self._process.wait()


class Cluster:
    """A head without CPUs and some nodes with one CPU each, running in a `with` block.

    The nodes have the given environment variables and none of this shell's settings. They die with this process.
    """

    def __init__(self, nodes: int = 2, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))  # short, as the names of sockets contain it
        self.nodes: list[Node] = []  # the head first
        self._size = nodes
        self._authentication = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._environment = environment
        self._submissions: list[Submission] = []
        self._started = 0
        gcs, dashboard, client = free_ports(3)
        self._address, self._dashboard = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{dashboard}"
        self._head_options = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=0"]
        self._head_options += [f"--ray-client-server-port={client}"]

    def submit(self, *line: str, **variables: str) -> Submission:
        """Submit a command line, as made by `tests.support.jobs.command`, with environment variables for the job."""
        runtime_env = {"env_vars": variables, "excludes": NOT_UPLOADED}
        submit = [str(RAY), "job", "submit", "--address", self._dashboard, "--working-dir", "."]
        submit += ["--runtime-env-json", json.dumps(runtime_env), "--", *line]
        log = self.folder / f"submission{len(self._submissions)}.log"
        self._submissions.append(Submission(submit, _clean_environment() | self._authentication, log))
        return self._submissions[-1]

    def stop(self, submission: Submission) -> None:
        """Stop a submitted job as `ray job stop` does: SIGTERM, and SIGKILL after three seconds."""
        job = re.search(r"raysubmit_\w+", submission.log)
        assert job, submission.log
        line = [str(RAY), "job", "stop", "--address", self._dashboard, job[0]]
        subprocess.run(line, env=_clean_environment() | self._authentication, check=True, stdout=subprocess.DEVNULL)

    def fill(self) -> None:
        """Start the missing nodes, and wait until all have joined the cluster."""
        while len(self.nodes) <= self._size:
            self.nodes.append(self._start(f"--address={self._address}", "--num-cpus=1"))
        wait_until(lambda: self._alive() == len(self.nodes), "all nodes have joined the cluster", self._log_ends)

    def kill_node(self, worker: str = "LabelWorker") -> None:
        """Kill all processes of a node that runs a worker (part of its name), as a power cut does."""
        node = next(node for node in self.nodes if node.processes(worker))
        self.nodes.remove(node)
        node.kill()

    def kill_labeling_worker(self) -> None:
        """Kill one process that is labeling, as the system does if memory runs out."""
        os.kill(find_processes(self._mark, "LabelWorker")[0], signal.SIGKILL)

    def metrics(self) -> Iterator[Sample]:
        """Yield the samples that Prometheus would collect from all nodes now."""
        for node in self.nodes:
            with contextlib.suppress(OSError), urllib.request.urlopen(node.metrics, timeout=10) as answer:
                for family in text_string_to_metric_families(answer.read().decode()):
                    yield from family.samples

    def __enter__(self) -> Self:
        try:
            self.nodes.append(self._start(*self._head_options))
            wait_until(lambda: self._alive() == 1, "the head answers", self._log_ends)
            self.fill()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for submission in self._submissions:
            submission.stop_following()
        for node in self.nodes[::-1]:
            node.kill()
        kill_all(self._mark)
        shutil.rmtree(self.folder)

    @property
    def _mark(self) -> str:
        """The prefix that the marks of all nodes have in common."""
        return f"{NODE_VARIABLE}={self.folder.name}/"

    def _start(self, *options: str) -> "Node":
        self._started += 1
        name = f"{self.folder.name}/{self._started}"
        environment = _clean_environment() | self._environment | self._authentication | {NODE_VARIABLE: name}
        return Node(list(options), environment, self.folder / str(self._started))

    def _alive(self) -> int:
        """Return how many nodes the cluster believes alive, 0 if it does not answer."""
        token = {"Authorization": f"Bearer {self._authentication['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self._dashboard}/api/v0/nodes", headers=token)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)

    def _log_ends(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()[-1000:]}" for path in sorted(self.folder.glob("[0-9]*.log")))


class Node:
    """A machine of the cluster: `ray start` and all processes that it starts."""

    def __init__(self, options: list[str], environment: dict[str, str], folder: Path) -> None:
        self._mark = f"{NODE_VARIABLE}={environment[NODE_VARIABLE]}\0"
        metrics, *others = free_ports(4)
        self.metrics = f"http://127.0.0.1:{metrics}/metrics"
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        options += [f"--{name}={port}" for name, port in zip(names, others, strict=True)]
        options += [f"--metrics-export-port={metrics}", "--min-worker-port=0", "--max-worker-port=0"]
        options += [f"--temp-dir={folder}", f"--object-store-memory={OBJECT_STORE_BYTES}", "--disable-usage-stats"]
        with folder.with_suffix(".log").open("wb") as file:
            self._process = subprocess.Popen(
                ["sh", "-c", END_WITH_PARENT, "sh", str(RAY), "start", "--block", *options],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def processes(self, name: str = "") -> list[int]:
        """Return the process ids of this node whose command line contains `name`."""
        return find_processes(self._mark, name)

    def kill(self) -> None:
        """Kill all processes of this node."""
        kill_all(self._mark)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def find_processes(mark: str, name: str = "") -> list[int]:
    """Return the ids of processes whose environment has a variable that starts with `mark` ("NAME=value").

    Only those whose command line contains `name`.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile, or belongs to another user
            marked = f"\0{mark}".encode() in b"\0" + (folder / "environ").read_bytes()
            if marked and name.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)


def kill_all(mark: str) -> None:
    """Kill all processes whose environment has a variable that starts with `mark`, until no new ones appear."""

    def kill() -> bool:
        for process in (found := find_processes(mark)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not found

    wait_until(kill, f"the processes with {mark!r} are gone")


def free_ports(count: int) -> list[int]:
    """Return different ports on which nothing listens."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(("", port))
            found.add(port)
    return list(found)


def wait_until(condition: Callable[[], bool], description: str, details: Callable[[], str] = str) -> None:
    """Wait for a condition. Raises TimeoutError with its description and the details."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {TIMEOUT} s in vain until {description}\n{details()}")
        time.sleep(0.1)


def _clean_environment() -> dict[str, str]:
    """Return this process's environment without settings of the programs, of Ray, and of S3."""
    settings = ("LABELER_", "TRAINER_", "IMAGENET_ATTN_", "RAY_", "AWS_", "TEACHER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)}
