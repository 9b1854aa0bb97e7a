"""Planning 1.28 and 14 million images, and the overhead of 1,282 shards: the scale of ImageNet, without its images.

Planning: a synthetic listing passes through `ListingBuilder` in random order, as from a source, and is turned into a
plan and its files on the local disk. Separate processes (with PyTorch imported, as in the program) plan, read the
images of one shard, and plan again, which finds the existing plan: a resumed run. Requests to list an input are not
included.

Shards: the whole program labels 1,282 tiny images, one per shard, with a teacher that costs nothing. The bar applies to
its whole duration: start-up, planning, scheduling, records, publishing, and the short time that such a shard takes. The
overhead is the time that workers wait between shards: their time from the start of the first shard to the last record,
minus the time spent in shards. On few cores the driver and Ray's own processes compete with the workers.
"""

import argparse
import io
import json
import multiprocessing
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from timing import Row, peak_memory, print_table

from common.manifest import LISTING
from common.sources.listing import ImageRef, ListingBuilder
from common.storage import LocalStorage
from common.text import pluralize
from labeler.config import LabelConfig
from labeler.planning.generations import read_plans, save_first_plan
from labeler.planning.listing import ListingReader
from labeler.planning.plan import make_plan
from labeler.publishing.publish import publish
from tests.support.data.pictures import jpeg
from tests.support.jobs import TEACHER, command, start

SHARDS = 1282
BAR_OVERHEAD = 0.05  # fraction of the time that 1,282 full shards take on a fast GPU
PER_SHARD = 1000
GPU_RATE, CORE_RATE = 1000, 30  # images per second
MEAN_BYTES = 110_000


class Size(NamedTuple):
    """The size of an input, and the bars for planning it."""

    name: str
    images: int
    classes: int
    seconds: float
    gigabytes: float


SIZES = {
    "1k": Size("ImageNet-1k", 1_281_167, 1000, 60, 2),
    "21k": Size("ImageNet-21k", 14_197_122, 21_841, 600, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[*SIZES, "shards"], default=[*SIZES, "shards"])
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        for name in arguments.only:
            if name in SIZES:
                report_planning(SIZES[name], Path(scratch) / name)
            else:
                report_shards(Path(scratch) / name, arguments.workers)


def report_planning(size: Size, output: Path) -> None:
    """Plan an input of this size, and print time and memory."""
    first, resumed, reading = (run_in_process(case, size, output) for case in (plan_input, plan_input, read_shard))
    rows = []
    for what, figures in (("plan", first), ("plan again, as a resumed run", resumed)):
        phases = ", ".join(f"{figures[phase]:.1f}" for phase in ("list", "plan", "write"))
        rows += [
            Row(what, figures["wall"], "s", at_most=size.seconds),
            Row("  list, plan, write", f"{phases} s"),
            Row("  peak memory", figures["peak"], "GB", at_most=size.gigabytes),
        ]
    rows += [
        Row("open the listing, read one shard", f"{reading['open'] * 1e3:.0f} + {reading['read'] * 1e3:.0f} ms"),
        Row("  peak memory, memory before", f"{reading['peak']:.2f} GB, {reading['before']:.2f} GB"),
        Row(LISTING, (output / LISTING).stat().st_size / 1e6, "MB"),
    ]
    print_table(f"{size.name}: {size.images:,} images, {size.classes:,} classes", rows)


def run_in_process(case: Callable[[Size, Path], dict[str, float]], size: Size, output: Path) -> dict[str, float]:
    """Run a case in a new process. Returns its figures, and the peak memory of that process in GB as `peak`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        figures = pool.apply(case, (size, output))
        return figures | {"peak": pool.apply(peak_memory)}


def plan_input(size: Size, output: Path) -> dict[str, float]:
    """Do what `labeler.run --plan-only` does after listing the input. Returns seconds by phase."""
    times = [time.monotonic()]
    builder = ListingBuilder(lambda images: None)
    builder.add(synthetic_images(size))
    listing = builder.finish()  # stays in memory to the end, as in the program
    times.append(time.monotonic())
    plan, images = make_plan(listing, LabelConfig(samples_per_shard=PER_SHARD), TEACHER, "synthetic")
    times.append(time.monotonic())
    save_first_plan(LocalStorage(output), plan, images)
    times.append(time.monotonic())
    phases = zip(("list", "plan", "write"), times, times[1:], strict=False)
    return {phase: end - begin for phase, begin, end in phases} | {"wall": times[-1] - times[0]}


def synthetic_images(size: Size) -> Iterator[ImageRef]:
    """Yield images with names and sizes like ImageNet's, in random order, as from a file system."""
    generator = np.random.default_rng(0)
    for position in generator.permutation(size.classes).tolist():
        images = size.images // size.classes + (position < size.images % size.classes)
        wnid = f"n{1440764 + 617 * position:08d}"
        numbers = generator.permutation(20 * images)[:images].tolist()
        sizes = generator.lognormal(np.log(MEAN_BYTES) - 0.5**2 / 2, 0.5, images).astype(int).tolist()
        for number, file_size in zip(numbers, sizes, strict=True):
            yield ImageRef(f"train/{wnid}/{wnid}_{number}.JPEG", file_size, None, 0)


def read_shard(size: Size, output: Path) -> dict[str, float]:
    """Do what a worker does before its first image. Returns seconds by phase, and the memory before in GB."""
    before, begin = peak_memory(), time.monotonic()
    storage = LocalStorage(output)
    reader = ListingReader(storage, read_plans(storage)[0])
    opened = time.monotonic()
    images = reader.shard(reader.plan.shards // 2)
    end = time.monotonic()
    if len(images) not in (PER_SHARD, PER_SHARD - 1):
        raise RuntimeError(f"{len(images)} images in a shard")
    return {"before": before, "open": opened - begin, "read": end - opened}


def report_shards(folder: Path, workers: int) -> None:
    """Label tiny images, one per shard, and print where the time went."""
    images, output = make_tiny_images(folder), folder / "output"
    settings = {"samples_per_shard": 1, "map_size": 8, "workers": workers, "gpus_per_worker": 0}
    line = command(input=images, output=output, teacher="tests.support.teachers:null_teacher", **settings)
    called = time.time()
    processes = count_processes(start(line))
    ended = time.time()
    storage = LocalStorage(output)
    plans = read_plans(storage)
    begin = time.monotonic()
    publish(storage, plans, 0)
    publishing = time.monotonic() - begin
    records = [(path.stat().st_mtime, json.loads(path.read_bytes())) for path in output.glob("records/*.json")]
    phases = {name: sum(record["seconds"].get(name, 0) for _, record in records) for name in ("total", "commit")}
    began, first, last = (
        min(written - record["seconds"]["total"] for written, record in records),
        min(written for written, _ in records),
        max(written for written, _ in records),
    )
    overhead = (workers * (last - began) - phases["total"]) / SHARDS
    gpu_seconds = SHARDS * PER_SHARD / GPU_RATE
    share = (ended - called) / gpu_seconds * 100
    committing = f"{phases['total'] / SHARDS * 1e3:.1f} ms, {phases['commit'] / SHARDS * 1e3:.1f} ms of it to commit"
    print_table(
        f"{SHARDS:,} shards of one tiny image, {pluralize(workers, 'worker')}",
        [
            Row("the whole program", ended - called, "s"),
            Row(
                f"  of {gpu_seconds:,.0f} s, for {PER_SHARD:,} images per shard at {GPU_RATE:,} images/s",
                share,
                "%",
                at_most=BAR_OVERHEAD * 100,
            ),
            Row("  before the first shard, after the last", f"{began - called:.1f} s, {ended - last:.1f} s"),
            Row("  from the first record to the last", last - first, "s"),
            Row("  publishing, once more", publishing, "s"),
            Row("labeling one shard", committing),
            Row("overhead per shard", overhead * 1e3, "ms"),
            Row(f"  of a shard at {GPU_RATE:,} images/s", f"{overhead * GPU_RATE / PER_SHARD:.2%}"),
            Row(f"  of a shard at {CORE_RATE} images/s, a CPU core", f"{overhead * CORE_RATE / PER_SHARD:.3%}"),
            Row("simultaneous processes, including Ray's", processes),
        ],
    )


def make_tiny_images(folder: Path) -> Path:
    """Write a tar file with one image of 8 x 8 pixels per shard. Returns its path."""
    folder.mkdir()
    with tarfile.open(folder / "tiny.tar", "w") as tar:
        for index in range(SHARDS):
            content = jpeg(8, 8, seed=index)
            header = tarfile.TarInfo(f"class{index % 10}/{index:05d}.jpg")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return folder / "tiny.tar"


def count_processes(program: "subprocess.Popen[str]") -> int:
    """Wait for a program to end. Returns the maximum number of simultaneous processes, itself and its descendants."""
    most = 0
    while program.poll() is None:
        most = max(most, count_family(program.pid))
        time.sleep(1)
    out, errors = program.communicate()
    if program.returncode:
        raise RuntimeError(f"exit code {program.returncode}\n{out}\n{errors}")
    return most


def count_family(pid: int) -> int:
    """Count a process and its descendants."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # the process has just ended
            continue

    def descends(process: int) -> bool:
        return process == pid or (process in parents and descends(parents[process]))

    return sum(descends(process) for process in parents)


if __name__ == "__main__":
    main()
