"""Throughput of a run, and a projection of time and cost for the whole input, from the records of its shards."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from common.manifest import ShardRecord
from common.text import pluralize

# run one after the other; their sum is a worker's time
SEQUENTIAL_PHASES = ("wait", "device_decode", "teacher", "wait_encode", "write", "commit")
THREAD_PHASES = ("fetch", "decode", "encode")  # run in threads at the same time; their seconds are summed over threads
BOTTLENECKS = {  # what limits the speed, and what to change
    "fetch": "images are read slowly: move the workers closer to the input, or set more --threads-per-worker",
    "decode": "images are decoded slowly on the CPU: rent more cores per worker, or set more --threads-per-worker if "
    "the cores are not busy",
    "device_decode": "the GPU's JPEG decoder is waited for: use a GPU with a hardware decoder (deploy/GPU.md), or let "
    "more workers share the GPU with a smaller --gpus-per-worker",
    "teacher": "the teacher computes nearly all the time, as it should: more workers or faster hardware help",
    "encode": "labels are compressed slowly: rent more cores per worker, or set more --threads-per-worker if the cores "
    "are not busy",
    "write": "shards are written slowly: use a faster disk for the output or, with S3, for TMPDIR, and a network that "
    "is closer to the output",
}


def measure_throughput(
    records: Collection[ShardRecord], seconds: float, workers: int, input_images: int, price_per_hour: float | None
) -> dict[str, Any]:
    """Return the object `report` of progress.json for a run that committed these records.

    `seconds` is the duration of the run, including the start of Ray. In the report, `waited` is the share of the
    workers' time in which the teacher waited for images, and `projected` is the time and cost of labeling
    `input_images` images with workers that are always busy; 0 omits it. `price_per_hour` is the price of one machine.
    """
    phases: Counter[str] = Counter()
    for record in records:
        phases.update(record.seconds)
    images = sum(record.samples + len(record.failed) for record in records)
    machines = len({record.host for record in records})
    busy = phases["total"]
    report: dict[str, Any] = {
        "images": images,
        "failed": sum(len(record.failed) for record in records),
        "seconds": round(seconds, 1),
        "images_per_second": round(images / seconds, 2) if seconds else None,
        "workers": workers,
        "machines": machines,
        "seconds_by_phase": {phase: round(value, 1) for phase, value in sorted(phases.items())},
        "waited": round(phases["wait"] / busy, 3) if busy else None,
        "bottleneck": find_bottleneck(phases),
        "projected": None,
    }
    if input_images and images and busy:
        hours = input_images * busy / images / max(workers, 1) / 3600
        cost = None if price_per_hour is None else round(hours * machines * price_per_hour, 2)
        report["projected"] = {
            "images": input_images,
            "hours": float(f"{hours:.4g}"),
            "machine_hours": float(f"{hours * machines:.4g}"),
            "cost": cost,
        }
    return report


def find_bottleneck(phases: Mapping[str, float]) -> str | None:
    """Return the key of `BOTTLENECKS` that takes most of the workers' time; None if no time was spent.

    If a worker waits for its threads, that is the phase of the threads.
    """
    seconds = {phase: phases.get(phase, 0.0) for phase in ("device_decode", "teacher")}
    slower = max(("fetch", "decode"), key=lambda phase: phases.get(phase, 0.0))
    seconds[slower] = phases.get("wait", 0.0)
    seconds["encode"] = phases.get("wait_encode", 0.0)
    seconds["write"] = phases.get("write", 0.0) + phases.get("commit", 0.0)
    largest = max(seconds, key=lambda phase: seconds[phase])
    return largest if seconds[largest] else None


def format_throughput(report: dict[str, Any]) -> list[str]:
    """Format a report as lines of text; no lines if no image was labeled."""
    if not report["images"]:
        return []
    phases = report["seconds_by_phase"]
    total = phases["total"] or 1
    machines = pluralize(report["machines"], "machine")
    shares = ", ".join(f"{phase} {phases[phase] / total:.0%}" for phase in SEQUENTIAL_PHASES if phase in phases)
    in_threads = ", ".join(f"{phase} {phases.get(phase, 0):,.1f} s" for phase in THREAD_PHASES)
    lines = [
        f"{pluralize(report['images'], 'image')} in {report['seconds']:,.1f} s: {report['images_per_second']:,.1f} "
        f"images/s ({pluralize(report['workers'], 'worker')} on {machines}, start-up included)",
        f"workers' time: {shares} (wait: for images to be fetched and decoded); in threads: {in_threads}",
    ]
    if bottleneck := report["bottleneck"]:
        lines.append(f"bottleneck: {bottleneck}; {BOTTLENECKS[bottleneck]}")
    if projected := report["projected"]:
        cost = "" if projected["cost"] is None else f", cost {projected['cost']:,.2f}"
        lines.append(
            f"projection for all {pluralize(projected['images'], 'image')} of the input, workers always busy: "
            f"{_format_hours(projected['hours'])} on {machines}, "
            f"{_format_hours(projected['machine_hours'], 'machine ')}{cost}"
        )
    return lines


def _format_hours(hours: float, kind: str = "") -> str:
    """Format a duration with three digits in a unit in which it is at least 1: "1.5 hours", "12 machine minutes"."""
    number, unit = hours, "hours"
    if hours < 1:
        number, unit = hours * 60, "minutes"
    if hours * 60 < 1:
        number, unit = hours * 3600, "seconds"
    text = f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
    return f"{text} {kind}{unit if text != '1' else unit.removesuffix('s')}"
