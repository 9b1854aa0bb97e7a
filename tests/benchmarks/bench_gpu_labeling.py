"""Labeling on a GPU: each part of the pipeline alone, a whole shard in one process, and the whole job through Ray.

The parts process the same photographs in batches of the job's default size, decoded on the device if the GPU decodes
them to the CPU's pixels. The rate of a whole is also shown relative to its slowest part. The job runs with its default
settings; start-up is excluded, as the records show.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from labeling_jobs import measure_rate, repeat_photographs
from timing import SHARED_DATA, Row, print_table, rates, require_path, skip, time_cases

from common.gaze import GAZE_SIGMA, find_peaks
from common.images import decode_jpeg
from common.images.gpu_decoder import decode_with_nvjpeg, explain_difference
from common.images.jpeg import read_jpeg_header
from common.manifest import LabelConfig
from common.png import encode_gray_png
from common.sources import open_source
from common.storage import LocalStorage
from labeler.labeling.hardware import make_backend
from labeler.labeling.label import predict_maps
from labeler.labeling.resize import MAX_SIDE, resize_batch
from labeler.labeling.shard import ShardLabeler
from labeler.planning.generations import save_first_plan
from labeler.planning.plan import make_plan
from labeler.planning.resolve import DEFAULTS, resolve_config
from labeler.teacher.weights import find_teacher, load_teacher
from tests.support.jobs import command, run

BAR_JOB, BAR_TEACHER = 2300, 6000  # images/s on an H100
BAR_CPU_MILLISECONDS, BAR_PNG_MILLISECONDS = 1.5, 0.3
BATCH_SIZE = int(DEFAULTS["batch_size"])
MAP_SIZE = LabelConfig().map_size
PER_SHARD = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="images of the job (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--no-job", action="store_true", help="leave out the job through Ray")
    parser.add_argument("--any-device", action="store_true", help="also run without a GPU, to try the script")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.any_device:
        skip("needs a GPU")
    photographs = require_path(SHARED_DATA / "imagenet-sample")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    slowest = measure_parts(photographs, device, arguments.repetitions)
    with tempfile.TemporaryDirectory(prefix="bench") as scratch:
        folder = Path(scratch)
        source = repeat_photographs(photographs, folder / "images", max(arguments.images, 2 * PER_SHARD))
        rows = measure_shards(source, folder, slowest)
        if not arguments.no_job:
            rows += measure_job(source, folder, arguments.images, slowest)
        print_table("labeling on a GPU: wholes", rows)


def measure_parts(photographs: Path, device: torch.device, repetitions: int) -> float:
    """Measure the parts of the pipeline. Returns the rate of the slowest one on the device, in images/s."""
    contents = [path.read_bytes() for path in sorted(photographs.rglob("*.JPEG"))]
    headers = {content: read_jpeg_header(content) for content in contents}
    simple = [content for content, header in headers.items() if header is not None and header.is_simple]
    jpegs = simple[:BATCH_SIZE]
    decode = functools.partial(decode_with_nvjpeg, device=device) if device.type == "cuda" else None
    teacher = load_teacher("bundled").to(device)
    images = [decode_jpeg(content).to(device) for content in jpegs]
    images = [image for image in images if max(image.shape) <= MAX_SIDE]
    inputs = resize_batch(images, BATCH_SIZE)
    maps = predict_maps(teacher, inputs, MAP_SIZE)
    stored = maps.stored.cpu().numpy()
    scaled = inputs / 255

    def forward() -> None:
        with torch.inference_mode():
            teacher.predict(scaled)

    cases: dict[str, Callable[[], object]] = {
        "resize to 480 x 640": lambda: resize_batch(images, BATCH_SIZE),
        "teacher, forward": forward,
        "teacher, stored maps and grids": lambda: predict_maps(teacher, inputs, MAP_SIZE),
        "gaze points": lambda: find_peaks(maps.grid, GAZE_SIGMA, 0.2, 200),
    }
    if decode is not None:
        cases["decode (nvJPEG)"] = lambda: decode(jpegs)
        print(f"nvJPEG against the CPU's decoder: {explain_difference(decode) or 'the same pixels'}\n")
    seconds = time_cases(repetitions, **{name: synchronized(case, device) for name, case in cases.items()})
    png = time_cases(repetitions, png=lambda: [encode_gray_png(attention) for attention in stored])["png"]
    per_case = {name: rates(durations, BATCH_SIZE) for name, durations in seconds.items()}
    rows = [
        Row(name, values, "images/s", at_least=BAR_TEACHER if name == "teacher, forward" else None)
        for name, values in per_case.items()
    ]
    per_map = [duration / len(stored) * 1e3 for duration in png]
    rows.append(Row("map to PNG, one core", per_map, "ms", at_most=BAR_PNG_MILLISECONDS))
    print_table(f"labeling on a GPU: parts, batches of {BATCH_SIZE}", rows)
    return min(sorted(values)[len(values) // 2] for values in per_case.values())


def synchronized(case: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Return a case that ends when the device has finished its work."""

    def run_case() -> None:
        case()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run_case


def measure_shards(source: Path, folder: Path, slowest: float) -> list[Row]:
    """Label two shards in this process with four threads; the second one is measured."""
    output = folder / "shard"
    config = resolve_config(LabelConfig(samples_per_shard=PER_SHARD, limit=2 * PER_SHARD), None)
    teacher = find_teacher("bundled")
    plan, table = make_plan(open_source(str(source)).list(), config, teacher.identity, str(source))
    save_first_plan(LocalStorage(output), plan, table)
    backend = make_backend(teacher.build(), config)
    print(backend.warning or "the backend has no warning", end="\n\n")
    labeler = ShardLabeler(plan, LocalStorage(output), open_source(plan.input), backend, threads=4)
    labeler.label(0)
    start, cpu = time.perf_counter(), time.process_time()
    record = labeler.label(1)
    rate = record.samples / (time.perf_counter() - start)
    cpu_milliseconds = (time.process_time() - cpu) / record.samples * 1e3
    print(f"seconds by phase: {record.seconds}\n")
    return [
        Row("a shard, one process with 4 threads", rate, "images/s"),
        Row("a shard / slowest part", rate / slowest, "x"),
        Row("CPU time, a shard in one process", cpu_milliseconds, "ms per image", at_most=BAR_CPU_MILLISECONDS),
    ]


def measure_job(source: Path, folder: Path, images: int, slowest: float) -> list[Row]:
    """Label with python -m labeler.run and its default settings."""
    output = folder / "job"
    done = run(command(input=source, output=output, samples_per_shard=250, limit=images))
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(done.stdout)
    rate = measure_rate(output)
    bars: dict[str, Any] = {"at_least": BAR_JOB} if torch.cuda.is_available() else {}
    return [Row("labeler.run", rate, "images/s", **bars), Row("labeler.run / slowest part", rate / slowest, "x")]


if __name__ == "__main__":
    main()
