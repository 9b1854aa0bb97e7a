"""A Ray cluster of several nodes on this machine, to which jobs are submitted as users do; gone when it is stopped."""

import contextlib
import json
import os
import random
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
from tests.support.s3_server import PORTS, TIED

RAY = Path(sys.executable).with_name("ray")
NODE = "TESTS_RAY_NODE"  # environment variable that a node and all its processes have: which one of which cluster
SMALL = 100_000_000  # bytes of a node's shared memory; a job's objects are some kilobytes
PATIENCE = 90  # seconds until a cluster has started, changed or gone
NOT_SHIPPED = [".git", ".venv", "runs"]


class Submission:
    """A job that was submitted: `ray job submit` follows it to its end, prints its log and takes its exit code."""

    def __init__(self, line: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def log(self) -> str:
        """What was printed so far."""
        return self._log.read_text(errors="replace")

    def poll(self) -> int | None:
        """The exit code; None while the job runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """The exit code at the job's end. Raises TimeoutError with the log."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the job has not ended in {seconds:g} s; its log:\n{self.log}") from None

    def leave(self) -> None:
        """Follow the job no longer."""
        self._process.kill()
        self._process.wait()


class Cluster:
    """A head without CPUs and some nodes with one CPU each, between `with` and its end.

    The nodes have the given environment variables and none of this shell's settings. They die with this process.
    """

    def __init__(self, nodes: int = 2, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))  # short: it becomes part of sockets' names
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
        """Submit a command, such as `tests.support.jobs.command` makes, with environment variables of the job."""
        runtime_env = {"env_vars": variables, "excludes": NOT_SHIPPED}
        submit = [str(RAY), "job", "submit", "--address", self._dashboard, "--working-dir", "."]
        submit += ["--runtime-env-json", json.dumps(runtime_env), "--", *line]
        log = self.folder / f"submission{len(self._submissions)}.log"
        self._submissions.append(Submission(submit, _neutral() | self._authentication, log))
        return self._submissions[-1]

    def fill(self) -> None:
        """Start the nodes that are missing, and wait until the cluster is whole."""
        while len(self.nodes) <= self._size:
            self.nodes.append(self._start(f"--address={self._address}", "--num-cpus=1"))
        wait_until(lambda: self._alive() == len(self.nodes), "the cluster knows all its nodes", self._tails)

    def kill_node(self) -> None:
        """Kill all processes of a node that labels, as a power cut does."""
        node = next(node for node in self.nodes if node.processes("LabelWorker"))
        self.nodes.remove(node)
        node.kill()

    def kill_labelling_worker(self) -> None:
        """Kill one process that labels, as the system does where memory runs out."""
        os.kill(processes(self._mark, "LabelWorker")[0], signal.SIGKILL)

    def metrics(self) -> Iterator[Sample]:
        """What Prometheus would collect now: the samples of all nodes."""
        for node in self.nodes:
            with contextlib.suppress(OSError), urllib.request.urlopen(node.metrics, timeout=10) as answer:
                for family in text_string_to_metric_families(answer.read().decode()):
                    yield from family.samples

    def __enter__(self) -> Self:
        try:
            self.nodes.append(self._start(*self._head_options))
            wait_until(lambda: self._alive() == 1, "the head answers", self._tails)
            self.fill()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for submission in self._submissions:
            submission.leave()
        for node in self.nodes[::-1]:
            node.kill()
        kill_all(self._mark)
        shutil.rmtree(self.folder)

    @property
    def _mark(self) -> str:
        """Begins the marks of all nodes."""
        return f"{NODE}={self.folder.name}/"

    def _start(self, *options: str) -> "Node":
        self._started += 1
        name = f"{self.folder.name}/{self._started}"
        environment = _neutral() | self._environment | self._authentication | {NODE: name}
        return Node(list(options), environment, self.folder / str(self._started))

    def _alive(self) -> int:
        """How many nodes live, as far as the cluster knows; 0 where it does not answer."""
        token = {"Authorization": f"Bearer {self._authentication['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self._dashboard}/api/v0/nodes", headers=token)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                nodes: list[dict[str, Any]] = json.load(answer)["data"]["result"]["result"]
        except OSError:
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)

    def _tails(self) -> str:
        return "\n".join(f"{path}:\n{path.read_text()[-1000:]}" for path in sorted(self.folder.glob("[0-9]*.log")))


class Node:
    """A machine of the cluster: `ray start` and all that it starts."""

    def __init__(self, options: list[str], environment: dict[str, str], folder: Path) -> None:
        self._mark = f"{NODE}={environment[NODE]}\0"
        metrics, *others = free_ports(4)
        self.metrics = f"http://127.0.0.1:{metrics}/metrics"
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        options += [f"--{name}={port}" for name, port in zip(names, others, strict=True)]
        options += [f"--metrics-export-port={metrics}", "--min-worker-port=0", "--max-worker-port=0"]
        options += [f"--temp-dir={folder}", f"--object-store-memory={SMALL}", "--disable-usage-stats"]
        with folder.with_suffix(".log").open("wb") as file:
            self._process = subprocess.Popen(
                ["sh", "-c", TIED, "sh", str(RAY), "start", "--block", *options],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def processes(self, name: str = "") -> list[int]:
        """Its processes that have this in their name."""
        return processes(self._mark, name)

    def kill(self) -> None:
        """Kill all its processes."""
        kill_all(self._mark)
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def processes(mark: str, name: str = "") -> list[int]:
    """The processes that have a variable in their environment and this in their name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            marked = f"\0{mark}".encode() in b"\0" + (folder / "environ").read_bytes()
            if marked and name.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)


def kill_all(mark: str) -> None:
    """Kill all processes that have a variable in their environment, and those that they start meanwhile."""

    def kill() -> bool:
        for process in (found := processes(mark)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not found

    wait_until(kill, f"the processes with {mark!r} are gone")


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(("", port))
            found.add(port)
    return list(found)


def wait_until(condition: Callable[[], bool], what: str, details: Callable[[], str] = str) -> None:
    """Wait for a condition. Raises TimeoutError with what it was."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE} s in vain until {what}\n{details()}")
        time.sleep(0.1)


def _neutral() -> dict[str, str]:
    """This process's environment without settings of the job, of Ray and of S3."""
    settings = ("LABELER_", "TRAINER_", "IMAGENET_ATTN_", "RAY_", "AWS_", "TEACHER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)}
