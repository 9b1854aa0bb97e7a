"""What a run has cost, and what the whole input would: from the records of the shards that it made."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from common.manifest import ShardRecord

IN_WORKER = ("teacher", "wait", "write", "commit")  # one after the other; the rest goes on in threads beside them


def measure_throughput(
    records: Collection[ShardRecord], seconds: float, workers: int, images_of_input: int, price_per_hour: float | None
) -> dict[str, Any]:
    """Figures of a run that took `seconds` from its start, with Ray's, and made these records.

    `waited` is the share of the workers' time in which the teacher had no image to look at. The projection is for all
    images of the input (none: 0), at the rate of workers that are busy; `price_per_hour` is that of one machine.
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
        "projected": None,
    }
    if images_of_input and images and busy:
        hours = images_of_input * busy / images / max(workers, 1) / 3600
        cost = None if price_per_hour is None else round(hours * machines * price_per_hour, 2)
        report["projected"] = {
            "images": images_of_input,
            "hours": float(f"{hours:.4g}"),
            "machine_hours": float(f"{hours * machines:.4g}"),
            "cost": cost,
        }
    return report


def format_throughput(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    if not report["images"]:
        return []
    phases = report["seconds_by_phase"]
    total = phases["total"] or 1
    machines = f"{report['machines']} machine{'s' if report['machines'] > 1 else ''}"
    shares = ", ".join(f"{phase} {phases.get(phase, 0) / total:.0%}" for phase in IN_WORKER)
    beside = ", ".join(f"{phase} {phases.get(phase, 0):,.1f} s" for phase in ("fetch", "decode", "encode"))
    lines = [
        f"{report['images']:,} images in {report['seconds']:,.1f} s: {report['images_per_second']:,.1f} images/s "
        f"({report['workers']} workers on {machines}, start-up included)",
        f"workers' time: {shares} (wait: for images to be fetched and decoded); in threads: {beside}",
    ]
    if projected := report["projected"]:
        cost = "" if projected["cost"] is None else f", cost {projected['cost']:,.2f}"
        lines.append(
            f"all {projected['images']:,} images of the input, workers always busy: {projected['hours']:,.3g} hours on "
            f"{machines}, {projected['machine_hours']:,.3g} machine hours{cost}"
        )
    return lines
