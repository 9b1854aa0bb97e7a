"""The labelling job (Ray) against a hand-written pool of processes that call the same functions.

Both label the same plan of real photographs, in shards of 100, with the published teacher. Start-up is left out of both
in the same way: from the start of the first shard to the record of the last one, as the records tell it (when a record
was written, less the seconds that its shard took). The job therefore pays for all that Ray does meanwhile, and for the
uneven start of its workers, but not for Ray's start. Both give their workers the same settings of the allocator. Ray
makes its workers nice, as in every user's run: measure on a machine that does nothing else.

Also: two workers against one, and the memory of one worker at a shard of 1,000 images.
"""

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

from timing import SHARED_DATA, against, needed, table

from common.cluster import ALLOCATOR
from common.manifest import Plan
from common.sources import open_source
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.labeling.shard import ShardLabeler
from labeler.planning.generations import save_first_plan
from labeler.planning.plan import make_plan
from labeler.teacher.weights import find_teacher
from tests.support.jobs import command, run

AGAINST_LOOP, TWO_AGAINST_ONE = 0.9, 1.8
PER_SHARD = 100
SHARDS_PER_WORKER = 8
CORES_FOR_TWO = 4  # one worker alone keeps about one and a half cores busy: its threads decode beside the teacher
THREADS = 2  # of each worker, as the job's on a CPU
LONG_SHARD = 1000
WEIGHTS = SHARED_DATA / "attention-center" / "center.tflite"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    needed(WEIGHTS)
    os.environ.update(ALLOCATOR)
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        folder = Path(scratch)
        workers, images = arguments.workers, arguments.workers * SHARDS_PER_WORKER * PER_SHARD
        source = repeated(needed(SHARED_DATA / "imagenet-sample"), folder / "images", max(images, LONG_SHARD))
        rates: dict[str, list[float]] = {"loop": [], "job": []}
        if workers > 1:
            rates |= {"two": [], "one": []} if workers > 2 else {"one": []}
        for repetition in range(arguments.repetitions):
            for case, found in rates.items():
                output, count = folder / f"{case}{repetition}", {"one": 1, "two": 2}.get(case, workers)
                (label_in_a_pool if case == "loop" else label_with_the_job)(source, output, images, count)
                found.append(rate(output))
        report(rates, workers)
        report_memory(source, folder)


def repeated(photographs: Path, folder: Path, images: int) -> Path:
    """A folder that holds the photographs as often as it takes to make so many images."""
    folder.mkdir()
    for copy in range(math.ceil(images / sum(1 for _ in photographs.rglob("*.JPEG")))):
        (folder / f"copy{copy}").symlink_to(photographs, target_is_directory=True)
    return folder


def label_with_the_job(source: Path, output: Path, images: int, workers: int) -> None:
    """python -m labeler.run."""
    settings = {"input": source, "output": output, "teacher": WEIGHTS, "samples_per_shard": PER_SHARD}
    line = command(**settings, limit=images, workers=workers, threads_per_worker=THREADS)
    done = run(line)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")


def label_in_a_pool(source: Path, output: Path, images: int, workers: int) -> None:
    """What one would write by hand."""
    plan = planned(source, output, samples_per_shard=PER_SHARD, limit=images)
    with multiprocessing.get_context("spawn").Pool(workers, start_worker, (plan, output)) as pool:
        for _ in pool.imap_unordered(label_shard, range(plan.shards)):
            pass


def planned(source: Path, output: Path, **config: Any) -> Plan:
    """The plan that the job would make, kept."""
    listing = open_source(str(source)).list()
    teacher = find_teacher(str(WEIGHTS)).identity
    plan, images = make_plan(listing, LabelConfig(**config), teacher, str(source))
    save_first_plan(LocalStorage(output), plan, images)
    return plan


labeler: ShardLabeler  # of this process of the pool


def start_worker(plan: Plan, output: Path) -> None:
    """Give this process its labeler."""
    global labeler
    teacher = find_teacher(str(WEIGHTS)).build()
    labeler = ShardLabeler(plan, LocalStorage(output), open_source(plan.input), teacher, THREADS)


def label_shard(shard: int) -> None:
    """Make one shard."""
    labeler.label(shard)


def rate(output: Path) -> float:
    """Images a second, start-up aside."""
    ends, starts, images = [], [], 0
    for path in output.glob("records/*.json"):
        record = json.loads(path.read_bytes())
        ends.append(path.stat().st_mtime)
        starts.append(ends[-1] - record["seconds"]["total"])
        images += record["samples"]
    return images / (max(ends) - min(starts))


def report(rates: dict[str, list[float]], workers: int) -> None:
    """Print the rates and their ratios: medians, the ratios of runs that followed each other."""
    rows = [
        (f"pool, {workers} processes", f"{statistics.median(rates['loop']):.1f} images/s", ""),
        (f"job, {workers} workers", f"{statistics.median(rates['job']):.1f} images/s", ""),
        ("job / pool", *against(median_ratio(rates["job"], rates["loop"]), AGAINST_LOOP)),
    ]
    if workers > 1:
        two = rates.get("two", rates["job"])
        rows.append(("job, 1 worker", f"{statistics.median(rates['one']):.1f} images/s", ""))
        figure, bar = against(median_ratio(two, rates["one"]), TWO_AGAINST_ONE)
        enough = (os.cpu_count() or 1) >= CORES_FOR_TWO
        rows.append(("2 workers / 1 worker", figure, bar if enough else f"none: needs {CORES_FOR_TWO} cores"))
    table("labelling, start-up aside", rows)


def median_ratio(upper: list[float], lower: list[float]) -> float:
    """Median over the repetitions."""
    return statistics.median(a / b for a, b in zip(upper, lower, strict=True))


def report_memory(source: Path, folder: Path) -> None:
    """Print what a worker takes, in processes of their own."""
    rows = []
    for images in (PER_SHARD, LONG_SHARD):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, peak = pool.apply(measure_memory, (source, folder / f"memory{images}", images))
        rows.append((f"a shard of {images:,} images", f"{peak:.0f} MB, {before:.0f} MB of it before the first", ""))
    table("peak memory of a worker", rows)


def measure_memory(source: Path, output: Path, images: int) -> tuple[float, float]:
    """Label one shard of so many images. Returns this process's peak memory before and after, in MB."""
    start_worker(planned(source, output, samples_per_shard=images, limit=images), output)
    before = peak_memory()
    label_shard(0)
    return before, peak_memory()


def peak_memory() -> float:
    """The most resident memory that this process ever had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
