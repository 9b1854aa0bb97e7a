"""Tests of deploy/cluster_demo.py: its commands are valid, it succeeds, and it leaves no process and no file behind."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ray.scripts.scripts import start as ray_start

from common.settings import load_settings
from deploy import cluster_demo
from labeler.config import LabelSettings
from labeler.distributed.worker import LabelWorker
from tests.support.clusters import find_processes
from tests.support.jobs import ROOT
from trainer.config import TrainSettings
from trainer.evaluate.config import EvaluateSettings
from trainer.evaluate.distribute import ExtractionWorker

MARK = "TESTS_DEMO"  # environment variable of all processes of the demo; a late letter, as Ray's agents erase the first
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the demo's processes in /proc")


@pytest.mark.parametrize(
    ("job", "module", "settings"),
    [
        (cluster_demo.JOBS[0], "labeler.run", LabelSettings),
        (cluster_demo.JOBS[1], "trainer.run", TrainSettings),
        (cluster_demo.JOBS[2], "trainer.evaluate", EvaluateSettings),
    ],
    ids=["label", "train", "evaluate"],
)
def test_jobs_have_flags_that_the_programs_accept(job: cluster_demo.Job, module: str, settings: Any) -> None:
    program, *flags = shlex.split(job.command.format(bucket="bucket"))[2:]
    assert program == module
    load_settings(settings, flags)


def test_workers_to_kill_have_the_names_of_actors() -> None:
    assert [job.worker for job in cluster_demo.JOBS] == [
        LabelWorker.__name__,
        "RayTrainWorker",
        ExtractionWorker.__name__,
    ]


@pytest.mark.parametrize("options", [cluster_demo.HEAD, cluster_demo.NODE])
def test_nodes_have_options_that_ray_start_accepts(options: str) -> None:
    line = options.format(port=1, dashboard=2, client=3)
    line += cluster_demo.ONE_MACHINE.format(folder="/tmp/x", ports=[4, 5, 6, 7])
    assert ray_start.make_context("start", shlex.split(line)).params["block"] is True


def start_demo(folder: Path) -> "subprocess.Popen[str]":
    """Start the demo with the mark of its processes in the environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.cluster_demo"],
        cwd=ROOT,
        env=os.environ | {MARK: str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def assert_nothing_is_left(folder: Path, output: str) -> None:
    left = [Path(f"/proc/{process}/cmdline").read_bytes() for process in find_processes(f"{MARK}={folder}")]
    assert left == []
    stores = set(re.findall(r"/tmp/demo\w+", output))
    assert not [path for path in stores if Path(path).exists()]


@linux
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_jobs_succeed_although_a_worker_of_each_is_killed(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    output, _ = demo.communicate()
    assert demo.returncode == 0, output
    assert len(re.findall(r"^=== .* killed process \d+", output, re.MULTILINE)) == 3
    assert '{"ok": true, "complete": true, "shards": 10, "samples": 200, "failures": 0' in output
    assert_nothing_is_left(tmp_path, output)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    demo = start_demo(tmp_path)
    deadline = time.monotonic() + 120
    while not find_processes(f"{MARK}={tmp_path}", "JobSupervisor"):
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 128 + number, output
    assert "Traceback" not in output
    assert_nothing_is_left(tmp_path, output)
