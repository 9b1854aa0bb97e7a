"""ImageNet's size, without its pictures: planning 1.28 and 14 million images, and what 1,282 shards cost beside labels.

Planning: a made-up listing goes through `ListingBuilder` as from a source, in no order, then into a plan and its files
on the local disk. A process of its own each (with PyTorch loaded, as in the program) plans, reads the images of one
shard, and plans again, which finds the plan there: a resumed run. The listing's own requests are not part of it.

Shards: the whole program labels 1,282 tiny pictures with a teacher that costs nothing, one a shard. All its time counts
against the bar: start-up, planning, scheduling, records, publishing, and the little that such a shard itself takes. The
overhead is what workers wait between shards: their time from the first shard's start to the last record, without the
shards' own seconds. On few cores the driver and Ray's own processes compete with the workers for them.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from timing import against, table

from common.manifest import LISTING
from common.sources.listing import ImageRef, ListingBuilder
from common.storage import LocalStorage
from labeler.config import LabelConfig
from labeler.planning.generations import read_plans, save_first_plan
from labeler.planning.listing import ListingReader
from labeler.planning.plan import make_plan
from labeler.publishing.publish import publish
from tests.support.jobs import TEACHER, command, start
from tests.support.pictures import jpeg

SHARDS = 1282
OVERHEAD = 0.05  # of the time that these shards' images take on a fast GPU
PER_SHARD = 1000
FAST_GPU, CORE = 1000, 30  # images a second
MEAN_BYTES = 110_000


class Size(NamedTuple):
    """An input's size, and the bars for planning it."""

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
    """Plan an input of this size and print what it takes."""
    first, again, one = (measured(case, size, output) for case in (plan_input, plan_input, read_shard))
    rows = [
        row
        for what, figures in (("plan", first), ("plan again, as a resumed run", again))
        for row in (
            (what, *against(figures["wall"], size.seconds, "s", most=True)),
            (
                "  list, plan, write",
                ", ".join(f"{figures[phase]:.1f}" for phase in ("list", "plan", "write")) + " s",
                "",
            ),
            ("  peak memory", *against(figures["peak"], size.gigabytes, "GB", most=True)),
        )
    ]
    rows += [
        ("open the listing, read one shard", f"{one['open'] * 1e3:.0f} + {one['read'] * 1e3:.0f} ms", ""),
        ("  peak memory, before it", f"{one['peak']:.2f} GB, {one['before']:.2f} GB", ""),
        (LISTING, f"{(output / LISTING).stat().st_size / 1e6:.0f} MB", ""),
    ]
    table(f"{size.name}: {size.images:,} images, {size.classes:,} classes", rows)


def measured(case: Callable[[Size, Path], dict[str, float]], size: Size, output: Path) -> dict[str, float]:
    """Run a case in a process of its own: its figures, and that process's peak memory in GB."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        figures = pool.apply(case, (size, output))
        return figures | {"peak": pool.apply(peak_memory)}


def plan_input(size: Size, output: Path) -> dict[str, float]:
    """What `labeler.run --plan-only` does after the requests of the listing. Returns seconds by phase."""
    times = [time.monotonic()]
    builder = ListingBuilder(lambda images: None)
    builder.add(made_up_images(size))
    listing = builder.finish()  # lives to the end, as in the program
    times.append(time.monotonic())
    plan, images = make_plan(listing, LabelConfig(samples_per_shard=PER_SHARD), TEACHER, "made up")
    times.append(time.monotonic())
    save_first_plan(LocalStorage(output), plan, images)
    times.append(time.monotonic())
    phases = zip(("list", "plan", "write"), times, times[1:], strict=False)
    return {phase: end - begin for phase, begin, end in phases} | {"wall": times[-1] - times[0]}


def made_up_images(size: Size) -> Iterator[ImageRef]:
    """Names and sizes like ImageNet's; folders, and files in them, in no order, as a file system gives them."""
    generator = np.random.default_rng(0)
    for position in generator.permutation(size.classes).tolist():
        images = size.images // size.classes + (position < size.images % size.classes)
        wnid = f"n{1440764 + 617 * position:08d}"
        numbers = generator.permutation(20 * images)[:images].tolist()
        sizes = generator.lognormal(np.log(MEAN_BYTES) - 0.5**2 / 2, 0.5, images).astype(int).tolist()
        for number, file_size in zip(numbers, sizes, strict=True):
            yield ImageRef(f"train/{wnid}/{wnid}_{number}.JPEG", file_size, None, 0)


def read_shard(size: Size, output: Path) -> dict[str, float]:
    """What a worker does before its first image."""
    before, begin = peak_memory(), time.monotonic()
    storage = LocalStorage(output)
    reader = ListingReader(storage, read_plans(storage)[0])
    opened = time.monotonic()
    images = reader.shard(reader.plan.shards // 2)
    end = time.monotonic()
    if len(images) not in (PER_SHARD, PER_SHARD - 1):
        raise RuntimeError(f"{len(images)} images in a shard")
    return {"before": before, "open": opened - begin, "read": end - opened}


def peak_memory() -> float:
    """The most resident memory that this process ever had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def report_shards(folder: Path, workers: int) -> None:
    """Label tiny pictures, one a shard, and print what that took beside the labels."""
    pictures, output = tiny_pictures(folder), folder / "output"
    settings = {"samples_per_shard": 1, "map_size": 8, "workers": workers, "gpus_per_worker": 0}
    line = command(input=pictures, output=output, teacher="tests.support.teachers:null_teacher", **settings)
    called = time.time()
    processes = most_processes(start(line))
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
    fast = SHARDS * PER_SHARD / FAST_GPU
    ratio, bar = against((ended - called) / fast * 100, OVERHEAD * 100, "%", most=True)
    table(
        f"{SHARDS:,} shards of one tiny picture, {workers} workers",
        [
            ("the whole program", f"{ended - called:.1f} s", ""),
            (f"  of {fast:,.0f} s, for {PER_SHARD:,} images a shard at {FAST_GPU:,} images/s", ratio, bar),
            ("  before the first shard, after the last", f"{began - called:.1f} s, {ended - last:.1f} s", ""),
            ("  from the first record to the last", f"{last - first:.1f} s", ""),
            ("  publishing, once more", f"{publishing:.2f} s", ""),
            (
                "a shard itself",
                f"{phases['total'] / SHARDS * 1e3:.1f} ms, {phases['commit'] / SHARDS * 1e3:.1f} to commit",
                "",
            ),
            ("overhead a shard", f"{overhead * 1e3:.1f} ms", ""),
            (f"  of a shard at {FAST_GPU:,} images/s", f"{overhead * FAST_GPU / PER_SHARD:.2%}", ""),
            (f"  of a shard at {CORE} images/s, a CPU core", f"{overhead * CORE / PER_SHARD:.3%}", ""),
            ("processes at the same time, Ray's included", str(processes), ""),
        ],
    )


def tiny_pictures(folder: Path) -> Path:
    """A tar of 8 x 8 pictures, as many as there are shards."""
    folder.mkdir()
    with tarfile.open(folder / "tiny.tar", "w") as tar:
        for index in range(SHARDS):
            content = jpeg(8, 8, seed=index)
            header = tarfile.TarInfo(f"class{index % 10}/{index:05d}.jpg")
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    return folder / "tiny.tar"


def most_processes(program: "subprocess.Popen[str]") -> int:
    """Wait for a program's end. Returns the most processes, itself and what it started, at the same time."""
    most = 0
    while program.poll() is None:
        most = max(most, family(program.pid))
        time.sleep(1)
    out, errors = program.communicate()
    if program.returncode:
        raise RuntimeError(f"exit code {program.returncode}\n{out}\n{errors}")
    return most


def family(pid: int) -> int:
    """How many processes descend from this one, itself included."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it has ended just now
            continue

    def descends(process: int) -> bool:
        return process == pid or (process in parents and descends(parents[process]))

    return sum(descends(process) for process in parents)


if __name__ == "__main__":
    main()
