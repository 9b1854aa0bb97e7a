"""The labeling job on Ray, against a hand-written process pool that calls the same functions.

Both label the same plan of real photographs, in shards of 100, with the published teacher. Start-up is excluded in both
in the same way: time runs from the start of the first shard to the record of the last one, as the records show (the
time at which a record was written, minus the seconds that its shard took). The job therefore pays for everything that
Ray does meanwhile, and for the staggered start of its workers, but not for Ray's start. Workers of both have the same
environment variables. Ray runs its workers at low priority (nice), as it does for every user: measure on an
idle machine.

Also measured: two workers against one, and the memory of one worker that labels a shard of 1,000 images.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

from labeling_jobs import measure_rate, repeat_photographs
from timing import SHARED_DATA, Row, print_table, ratios, require_path

from common.cluster import WORKER_VARIABLES
from common.manifest import Plan
from common.sources import open_source
from common.storage import LocalStorage
from common.text import pluralize
from labeler.config import LabelConfig
from labeler.labeling.hardware import make_backend
from labeler.labeling.shard import ShardLabeler
from labeler.planning.generations import save_first_plan
from labeler.planning.plan import make_plan
from labeler.planning.resolve import resolve_config
from labeler.teacher.weights import find_teacher
from tests.support.jobs import command, run

BAR_JOB_TO_POOL, BAR_TWO_TO_ONE = 0.9, 1.8
PER_SHARD = 100
SHARDS_PER_WORKER = 8
CORES_FOR_TWO = 4  # one worker alone occupies about one and a half cores: its threads decode while the teacher runs
THREADS = 2  # per worker, the job's default on a CPU
LONG_SHARD = 1000
WEIGHTS = SHARED_DATA / "attention-center" / "center.tflite"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    require_path(WEIGHTS)
    os.environ.update(WORKER_VARIABLES)
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        folder = Path(scratch)
        workers, images = arguments.workers, arguments.workers * SHARDS_PER_WORKER * PER_SHARD
        source = repeat_photographs(
            require_path(SHARED_DATA / "imagenet-sample"), folder / "images", max(images, LONG_SHARD)
        )
        rates: dict[str, list[float]] = {"pool": [], "job": []}
        if workers > 1:
            rates |= {"two": [], "one": []} if workers > 2 else {"one": []}
        for repetition in range(arguments.repetitions):
            for case, case_rates in rates.items():
                output, count = folder / f"{case}{repetition}", {"one": 1, "two": 2}.get(case, workers)
                (label_with_pool if case == "pool" else label_with_job)(source, output, images, count)
                case_rates.append(measure_rate(output))
        report(rates, workers)
        report_memory(source, folder)


def label_with_job(source: Path, output: Path, images: int, workers: int) -> None:
    """Label with python -m labeler.run."""
    settings = {"input": source, "output": output, "teacher": WEIGHTS, "samples_per_shard": PER_SHARD}
    line = command(**settings, limit=images, workers=workers, threads_per_worker=THREADS)
    done = run(line)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")


def label_with_pool(source: Path, output: Path, images: int, workers: int) -> None:
    """Label with a process pool, as one would write it by hand."""
    plan = save_plan(source, output, samples_per_shard=PER_SHARD, limit=images)
    with multiprocessing.get_context("spawn").Pool(workers, start_worker, (plan, output)) as pool:
        for _ in pool.imap_unordered(label_shard, range(plan.shards)):
            pass


def save_plan(source: Path, output: Path, **config: Any) -> Plan:
    """Make and save the plan that the job would make."""
    listing = open_source(str(source)).list()
    teacher = find_teacher(str(WEIGHTS)).identity
    resolved = resolve_config(LabelConfig(**config), None)
    plan, images = make_plan(listing, resolved, teacher, str(source))
    save_first_plan(LocalStorage(output), plan, images)
    return plan


labeler: ShardLabeler  # global of each process in the pool


def start_worker(plan: Plan, output: Path) -> None:
    """Create the labeler of this process."""
    global labeler
    backend = make_backend(find_teacher(str(WEIGHTS)).build(), plan.config)
    labeler = ShardLabeler(plan, LocalStorage(output), open_source(plan.input), backend, THREADS)


def label_shard(shard: int) -> None:
    """Label one shard with the labeler of this process."""
    labeler.label(shard)


def report(rates: dict[str, list[float]], workers: int) -> None:
    """Print rates, and ratios between consecutive runs."""
    rows = [
        Row(f"pool, {workers} processes", rates["pool"], "images/s"),
        Row(f"job, {pluralize(workers, 'worker')}", rates["job"], "images/s"),
        Row("job / pool", ratios(rates["job"], rates["pool"]), "x", BAR_JOB_TO_POOL),
    ]
    if workers > 1:
        enough = (os.cpu_count() or 1) >= CORES_FOR_TWO
        what = "2 workers / 1 worker" + ("" if enough else f" (the bar needs {CORES_FOR_TWO} cores)")
        rows.append(Row("job, 1 worker", rates["one"], "images/s"))
        two = rates.get("two", rates["job"])
        rows.append(Row(what, ratios(two, rates["one"]), "x", BAR_TWO_TO_ONE if enough else None))
    print_table("labeling, start-up excluded", rows)


def report_memory(source: Path, folder: Path) -> None:
    """Print the memory of a worker for short and long shards, each measured in a new process."""
    rows = []
    for images in (PER_SHARD, LONG_SHARD):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, peak = pool.apply(measure_memory, (source, folder / f"memory{images}", images))
        rows.append(
            Row(f"a shard of {images:,} images", f"{peak:.0f} MB, including {before:.0f} MB before the first one")
        )
    print_table("peak memory of a worker", rows)


def measure_memory(source: Path, output: Path, images: int) -> tuple[float, float]:
    """Label one shard of `images` images. Returns this process's peak memory before and after, in MB."""
    start_worker(save_plan(source, output, samples_per_shard=images, limit=images), output)
    before = peak_memory()
    label_shard(0)
    return before, peak_memory()


def peak_memory() -> float:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
